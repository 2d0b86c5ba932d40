//! PgBouncer's configuration: read, changed, applied, verified.

mod apply;
mod budget;
mod budget_report;
mod change;
mod check;
mod connstr;
mod console;
mod home;
mod ini;
mod keys;
mod pools;
mod preflight;
mod running;
mod version;

pub use budget::{ConnectionBudget, PoolDemand, PoolUsers, ServerLimit};
pub use budget_report::{BudgetReport, ServerBudget};
pub use change::{PoolChange, PoolMode};
pub use check::IniProblem;
pub use console::{Console, ConsoleRow};
pub use home::{ConfigHome, FileHome};
pub use ini::PgBouncerIni;
pub use pools::{PgBouncerPools, PoolValues};
pub use preflight::PoolBudget;
pub use running::PoolDifference;
pub use version::PgBouncerVersion;
