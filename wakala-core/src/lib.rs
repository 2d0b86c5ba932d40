//! Traits, plan, engine, guards, simulator and test kit.
