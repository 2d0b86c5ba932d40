//! The formulas: waiting in a queue, fluid backlog, what cache and database add.
//!
//! A replica is `c` parallel servers of mean service time `S` with a queue of its own (a load balancer does not know
//! which replica is free). With utilisation `ρ`, Sakasegawa's approximation of M/M/c (Ann. Inst. Stat. Math. 29, 1977)
//! gives the chance to wait, `P ≈ ρ^(√(2(c+1)) − 1)`, and the wait of those who do is exponential with mean
//! `S / (c(1 − ρ))`. Above `ρ` = 0.99, and for the time that an overload lasts, the backlog is a fluid.

use std::time::Duration;

/// Up to here the stationary formulas hold; what is beyond is the backlog's.
const MAX_UTILISATION: f64 = 0.99;
/// How much longer a request takes that misses the cache.
const MISS_COST: f64 = 2.0;
/// Of the database: how many queries it works on side by side.
const DATABASE_SERVERS: f64 = 16.0;
/// ln 20: how many means the 95th percentile of an exponential lies out.
const P95_MEANS: f64 = 2.995_732_273_553_991;

/// The chance that a request has to wait.
pub(super) fn wait_probability(utilisation: f64, servers: f64) -> f64 {
    utilisation.clamp(0.0, MAX_UTILISATION).powf((2.0 * (servers + 1.0)).sqrt() - 1.0)
}

/// The 95th percentile of the wait, in the unit of `service`.
fn p95_wait(utilisation: f64, servers: f64, service: f64) -> f64 {
    let utilisation = utilisation.clamp(0.0, MAX_UTILISATION);
    let chance = wait_probability(utilisation, servers);
    (20.0 * chance).ln().max(0.0) * service / (servers * (1.0 - utilisation))
}

/// How many times as long a query takes on a database that is used so much.
pub(super) fn database_stretch(utilisation: f64) -> f64 {
    let utilisation = utilisation.clamp(0.0, MAX_UTILISATION);
    1.0 + wait_probability(utilisation, DATABASE_SERVERS) / (DATABASE_SERVERS * (1.0 - utilisation))
}

/// How much a mean request costs, against one at the `nominal` hit ratio and a fast database.
///
/// `stretch` is how many times as long the database takes; 1 for the cost in CPU, which does not wait for it.
pub(super) fn request_cost(hit_ratio: f64, nominal: f64, stretch: f64) -> f64 {
    (hit_ratio + (1.0 - hit_ratio) * MISS_COST * stretch) / (nominal + (1.0 - nominal) * MISS_COST)
}

/// The hit ratio of a cache with `now` servers that has `base` with `initial` ones: misses fall with the root of its
/// size.
pub(super) fn hit_ratio(base: f64, initial: u32, now: u32) -> f64 {
    if now == 0 {
        return 0.0;
    }
    (1.0 - (1.0 - base) * (f64::from(initial) / f64::from(now)).sqrt()).max(0.0)
}

/// What one workload meets in one second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// Requests that reach it.
    pub(super) requests: f64,
    /// Replicas that are ready.
    pub(super) ready: u32,
    /// Requests per second that one of them serves at a cost of 1.
    pub(super) capacity_per_replica: f64,
    /// The mean service time at a cost of 1.
    pub(super) service: Duration,
    /// The cost of a request in time.
    pub(super) cost: f64,
    /// The cost of a request in CPU.
    pub(super) cpu_cost: f64,
    /// How long a client waits.
    pub(super) timeout: Duration,
    /// Which share of what is served fails all the same, for want of the database.
    pub(super) failing: f64,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// Requests per second that could have been served.
    pub(super) capacity: f64,
    /// Requests that were worked on.
    pub(super) handled: f64,
    /// Requests answered well.
    pub(super) served: f64,
    /// Requests that failed or timed out.
    pub(super) failed: f64,
    /// Requests that wait.
    pub(super) queue: f64,
    /// CPU used, as a share of what the ready replicas requested.
    pub(super) cpu: f64,
    /// The 95th percentile of the latency, in seconds; `None` without requests.
    pub(super) p95: Option<f64>,
}

/// One second of one workload with `queue` requests waiting.
pub(super) fn serve(arrival: &Arrival, queue: f64) -> Outcome {
    let replicas = f64::from(arrival.ready);
    let capacity = replicas * arrival.capacity_per_replica / arrival.cost;
    let timeout = arrival.timeout.as_secs_f64();
    let work = queue + arrival.requests;
    let handled = work.min(capacity);
    // Who would wait for longer than the timeout gives up.
    let waiting = (work - handled).min(capacity * timeout);
    let gave_up = work - handled - waiting;
    let broken = handled * arrival.failing;
    let p95 = (work > 0.0).then(|| {
        if capacity <= 0.0 {
            return timeout;
        }
        let service = arrival.service.as_secs_f64();
        let servers = (arrival.capacity_per_replica * service).max(1.0);
        let service = service * arrival.cost;
        let wait = p95_wait(arrival.requests / capacity, servers, service);
        (P95_MEANS * service + wait + waiting / capacity).min(timeout)
    });
    let nominal = replicas * arrival.capacity_per_replica;
    Outcome {
        capacity,
        handled,
        served: handled - broken,
        failed: gave_up + broken,
        queue: waiting,
        cpu: if nominal > 0.0 { (handled * arrival.cpu_cost / nominal).min(1.0) } else { 0.0 },
        p95,
    }
}

/// The largest whole number that is not above `value`; 0 for what is below 0 or no number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, as documented")]
pub(super) fn floor(value: f64) -> u32 {
    value.floor() as u32
}

/// The smallest whole number that is not below `value`; 0 for what is below 0 or no number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, as documented")]
pub(super) fn ceil(value: f64) -> u32 {
    value.ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(requests: f64) -> Arrival {
        Arrival {
            requests,
            ready: 10,
            capacity_per_replica: 100.0,
            service: Duration::from_millis(50),
            cost: 1.0,
            cpu_cost: 1.0,
            timeout: Duration::from_secs(10),
            failing: 0.0,
        }
    }

    #[test]
    fn sakasegawa_agrees_with_known_values() {
        // Exact Erlang C: M/M/1 waits with probability ρ; M/M/5 at ρ = 0.8 with 0.554, at 0.95 with 0.878.
        assert!((wait_probability(0.7, 1.0) - 0.7).abs() < 1e-12);
        assert!((wait_probability(0.8, 5.0) - 0.554).abs() < 0.03);
        assert!((wait_probability(0.95, 5.0) - 0.878).abs() < 0.01);
    }

    #[test]
    fn latency_and_failures_never_fall_as_load_rises() {
        let mut last = Outcome::default();
        for step in 1..300 {
            let now = serve(&arrival(f64::from(step) * 10.0), 0.0);
            assert!(now.p95 >= last.p95, "p95 falls at {step}: {last:?}, {now:?}");
            assert!(now.failed >= last.failed && now.cpu >= last.cpu && now.queue >= last.queue);
            last = now;
        }
        assert!(last.p95.unwrap() > 1.0);
    }

    #[test]
    fn overload_fills_the_queue_and_then_fails() {
        let (mut queue, mut failed) = (0.0, 0.0);
        for second in 0..30 {
            let outcome = serve(&arrival(1500.0), queue);
            assert_eq!(outcome.served, 1000.0);
            assert!(outcome.p95.unwrap() <= 10.0);
            (queue, failed) = (outcome.queue, outcome.failed);
            assert_eq!(failed > 0.0, second >= 20, "second {second}");
        }
        assert_eq!((queue, failed), (10_000.0, 500.0));
    }

    #[test]
    fn every_request_is_accounted_for() {
        for (requests, queue) in [(0.0, 0.0), (500.0, 40.0), (5000.0, 9000.0)] {
            let outcome = serve(&Arrival { failing: 0.1, ..arrival(requests) }, queue);
            let after = outcome.served + outcome.failed + outcome.queue;
            assert!((requests + queue - after).abs() < 1e-9);
        }
        let none = serve(&Arrival { ready: 0, ..arrival(100.0) }, 0.0);
        assert_eq!((none.failed, none.p95), (100.0, Some(10.0)));
        assert_eq!(serve(&arrival(0.0), 0.0).p95, None);
    }

    #[test]
    fn cost_rises_with_misses_and_a_slow_database() {
        assert_eq!(request_cost(0.8, 0.8, 1.0), 1.0);
        assert!(request_cost(0.5, 0.8, 1.0) > 1.0);
        assert!(request_cost(0.8, 0.8, 3.0) > 1.0);
        assert!(request_cost(0.9, 0.8, 1.0) < 1.0);
        assert!(database_stretch(0.2) < 1.01 && database_stretch(0.99) > 5.0);
        assert_eq!(hit_ratio(0.8, 2, 2), 0.8);
        assert!(hit_ratio(0.8, 2, 5) > 0.87 && hit_ratio(0.8, 2, 1) < 0.72);
    }

    #[test]
    fn rounding_saturates() {
        assert_eq!((floor(2.9), ceil(2.1), floor(-3.0), ceil(f64::NAN), ceil(1e20)), (2, 3, 0, 0, u32::MAX));
    }
}
