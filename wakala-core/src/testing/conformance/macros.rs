//! One list of behaviours per trait, from which both the tests and `all` are made.

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance {
    (target, $then:ident! $rest:tt) => {
        $crate::$then! { target $rest
            describes_itself
            observe_is_read_only
            set_desired_is_absolute
            set_desired_is_idempotent
            becomes_ready
            out_of_range_is_refused
            scale_down_is_as_declared
            keeps_the_floor
            keeps_the_rate
            present_version_is_accepted
            stale_version_conflicts
            dry_run_changes_nothing
            options_beyond_capability_are_refused
            unknown_target_is_not_found
        }
    };
    (step, $then:ident! $rest:tt) => {
        $crate::$then! { step $rest
            names_itself
            plans_read_only
            plan_serialises_round_trip
            observe_answers_at_prior_and_at_target
            runs_twice
            undo_restores_prior
            undoes_twice
            undo_without_apply_does_nothing
            drift_is_seen_and_left_alone
            undo_leaves_others_alone
        }
    };
    (setting, $then:ident! $rest:tt) => {
        $crate::$then! { setting $rest
            describes_itself
            read_is_read_only
            desired_is_pure
            value_survives_json
            write_is_absolute_and_idempotent
            converges
            stale_version_conflicts
            restore_brings_prior_back
        }
    };
    (source, $then:ident! $rest:tt) => {
        $crate::$then! { source $rest
            latest_is_well_formed
            range_is_ordered_within_its_window
            range_and_latest_agree
            absence_is_none_and_never_zero
            unknown_metric_has_no_value
            unreachable_is_an_error
        }
    };
    (notifier, $then:ident! $rest:tt) => {
        $crate::$then! { notifier $rest
            destination_is_stable
            secrets_are_not_shown
            delivers
            delivers_twice
            delivers_any_text
            unreachable_is_an_error
        }
    };
    (store, $then:ident! $rest:tt) => {
        $crate::$then! { store $rest
            lines_come_back_as_written
            keeps_lines_in_order
            wrong_place_conflicts
            concurrent_appends_have_one_winner
            appends_need_the_lease
            existing_run_conflicts
            overlapping_claims_conflict_by_name
            resources_are_a_set
            refused_creates_leave_nothing
            concurrent_creates_have_one_winner
            supersedes_and_fences
            supersedes_all_or_nothing
            unknown_run_is_not_found
            lists_runs_by_name
            heads_tell_how_runs_stand
            lease_is_held_for_its_time
            lapsed_lease_frees_nothing
            lapsed_lease_still_writes
            renewal_counts_from_now
            release_gives_up_what_it_says
            release_repeats
            release_is_for_the_latest_lease
            lapsed_lease_is_taken
            held_lease_is_taken_by_force
            former_owners_are_fenced
            epochs_count_owners
            acquire_replaces_claims_or_nothing
            acquire_reopens
            concurrent_takeovers_have_one_winner
            concurrent_claims_have_one_winner
            mail_is_numbered_without_gaps
            concurrent_mail_gets_places_of_its_own
            mail_comes_back_as_sent
            mail_needs_no_lease
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ($trait:ident [$make:path; $($attribute:meta)*] $($behaviour:ident)*) => {
        $crate::__conformance_tests! { @each $trait $make; [$(#[$attribute])*] $($behaviour)* }
    };
    (@each $trait:ident $make:path; $attributes:tt $($behaviour:ident)*) => {
        $($crate::__conformance_tests! { @one $trait $make; $attributes $behaviour })*
    };
    (@one $trait:ident $make:path; [$($attribute:tt)*] $behaviour:ident) => {
        #[tokio::test]
        $($attribute)*
        async fn $behaviour() {
            $crate::testing::conformance::$trait::$behaviour($make().await).await;
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_all {
    ($trait:ident [$make:ident] $($behaviour:ident)*) => {
        $($behaviour($make().await).await;)*
    };
}

/// One test per behaviour of [`ScalableTarget`](crate::ScalableTarget) for the targets that an async function makes. See
/// [`conformance`](crate::testing::conformance).
#[macro_export]
macro_rules! target_conformance {
    ($(#[$attribute:meta])* $make:path) => {
        $crate::__conformance! { target, __conformance_tests! [$make; $($attribute)*] }
    };
}

/// One test per behaviour of [`PlaybookStep`](crate::PlaybookStep) for the steps that an async function makes. See
/// [`conformance`](crate::testing::conformance).
#[macro_export]
macro_rules! step_conformance {
    ($(#[$attribute:meta])* $make:path) => {
        $crate::__conformance! { step, __conformance_tests! [$make; $($attribute)*] }
    };
}

/// One test per behaviour of [`Setting`](crate::Setting) for the settings that an async function makes. See
/// [`conformance`](crate::testing::conformance).
///
/// Run [`step_conformance!`](crate::step_conformance) on its [`SettingStep`](crate::SettingStep) too.
#[macro_export]
macro_rules! setting_conformance {
    ($(#[$attribute:meta])* $make:path) => {
        $crate::__conformance! { setting, __conformance_tests! [$make; $($attribute)*] }
    };
}

/// One test per behaviour of [`MetricsSource`](crate::MetricsSource) for the sources that an async function makes. See
/// [`conformance`](crate::testing::conformance).
#[macro_export]
macro_rules! source_conformance {
    ($(#[$attribute:meta])* $make:path) => {
        $crate::__conformance! { source, __conformance_tests! [$make; $($attribute)*] }
    };
}

/// One test per behaviour of [`Notifier`](crate::Notifier) for the notifiers that an async function makes. See
/// [`conformance`](crate::testing::conformance).
#[macro_export]
macro_rules! notifier_conformance {
    ($(#[$attribute:meta])* $make:path) => {
        $crate::__conformance! { notifier, __conformance_tests! [$make; $($attribute)*] }
    };
}

/// One test per behaviour of [`RunStore`](crate::RunStore) for the stores that an async function makes. See
/// [`conformance`](crate::testing::conformance).
#[macro_export]
macro_rules! store_conformance {
    ($(#[$attribute:meta])* $make:path) => {
        $crate::__conformance! { store, __conformance_tests! [$make; $($attribute)*] }
    };
}
