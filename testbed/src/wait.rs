use std::error::Error;
use std::future::Future;
use std::time::{Duration, Instant};

use crate::TestbedError;

const INTERVAL: Duration = Duration::from_millis(50);

/// Looks every 50 ms, for at most `deadline`, until `look` answers `Ok(value)`, and returns that value.
///
/// Every error means "not yet", so a server that is briefly away is waited for too. A look that hangs is given up
/// at the deadline.
///
/// # Errors
///
/// [`TestbedError::Timeout`] with `what` and the error of the last look.
pub async fn wait_until<T, F, Fut>(what: &str, deadline: Duration, mut look: F) -> Result<T, TestbedError>
where
    F: FnMut() -> Fut + Send,
    Fut: Future<Output = Result<T, Box<dyn Error + Send + Sync>>> + Send,
    T: Send,
{
    let started = Instant::now();
    let mut last = String::from("no look came back");
    loop {
        let left = deadline.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => {}
        }
        if started.elapsed() + INTERVAL >= deadline {
            return Err(TestbedError::Timeout { what: what.to_owned(), waited: started.elapsed(), last });
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn returns_the_first_success() {
        let mut looks = 0;
        let value = wait_until("third look", Duration::from_secs(5), || {
            looks += 1;
            let look = looks;
            async move { if look == 3 { Ok(look) } else { Err("not yet".into()) } }
        });
        assert_eq!(value.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_timeout_tells_what_was_last_seen() {
        let error =
            wait_until::<(), _, _>("ready", Duration::from_millis(120), || async { Err("2 of 3".into()) })
                .await
                .unwrap_err();
        assert!(error.to_string().contains("2 of 3"), "{error}");
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_given_up() {
        let error = wait_until::<(), _, _>("ready", Duration::from_millis(120), std::future::pending)
            .await
            .unwrap_err();
        assert!(matches!(error, TestbedError::Timeout { .. }), "{error}");
    }
}
