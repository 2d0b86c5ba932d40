//! Where AWS is and who calls it: the one place that builds an SDK configuration.

use std::fmt;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, Region, SdkConfig};
use aws_sdk_eks::config::Credentials;
use wakala_core::{Error, ExposeSecret, Result, SecretString};

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Below the time that the engine gives one call, so that the SDK's own error arrives and not the engine's.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Where AWS is and who calls it. What is not set comes from the environment and the profile, as in every AWS tool.
///
/// ```no_run
/// use wakala_aws::AwsConfig;
///
/// # async fn run() -> wakala_core::Result<()> {
/// let aws = AwsConfig::new().with_region("eu-west-1").with_profile("on-call").load().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AwsConfig {
    region: Option<String>,
    profile: Option<String>,
    endpoint_url: Option<String>,
    credentials: Option<StaticCredentials>,
    call_timeout: Duration,
}

#[derive(Clone, Debug)]
struct StaticCredentials {
    key_id: String,
    secret: SecretString,
    session_token: Option<SecretString>,
}

impl Default for AwsConfig {
    fn default() -> Self {
        Self {
            region: None,
            profile: None,
            endpoint_url: None,
            credentials: None,
            call_timeout: CALL_TIMEOUT,
        }
    }
}

impl AwsConfig {
    /// Everything from the environment: `AWS_REGION`, `AWS_PROFILE`, the profile's files, the roles of pods and
    /// instances, `AWS_ENDPOINT_URL`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes this region.
    #[must_use]
    pub fn with_region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Takes this profile of the shared AWS configuration, which may assume a role.
    #[must_use]
    pub fn with_profile(mut self, profile: impl Into<String>) -> Self {
        self.profile = Some(profile.into());
        self
    }

    /// Calls this address instead of AWS: a VPC endpoint, a test server.
    #[must_use]
    pub fn with_endpoint_url(mut self, url: impl Into<String>) -> Self {
        self.endpoint_url = Some(url.into());
        self
    }

    /// Signs with this key and looks for no other.
    #[must_use]
    pub fn with_static_credentials(mut self, key_id: impl Into<String>, secret: SecretString) -> Self {
        self.credentials = Some(StaticCredentials { key_id: key_id.into(), secret, session_token: None });
        self
    }

    /// Signs with this temporary key and looks for no other.
    #[must_use]
    pub fn with_session_credentials(
        mut self,
        key_id: impl Into<String>,
        secret: SecretString,
        session_token: SecretString,
    ) -> Self {
        let session_token = Some(session_token);
        self.credentials = Some(StaticCredentials { key_id: key_id.into(), secret, session_token });
        self
    }

    /// How long one call may take before its fate counts as unknown; 10 s unless set.
    #[must_use]
    pub fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Reads the environment and the profile. Credentials are looked for at the first call.
    ///
    /// # Errors
    /// `InvalidConfig` where no region is set anywhere, or where the endpoint is not a URL.
    pub async fn load(self) -> Result<Aws> {
        let refuse = |message: String| Err(Error::invalid("load", message).on("AWS configuration"));
        if let Some(url) = &self.endpoint_url
            && !url.starts_with("http://")
            && !url.starts_with("https://")
        {
            return refuse(format!("the endpoint {url} is no URL; begin it with https://"));
        }
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(self.call_timeout)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .app_name(AppName::new("wakala").expect("the name is of letters only"))
            // The engine owns retries: it looks whether a call took effect before it repeats it.
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        if let Some(region) = self.region {
            loader = loader.region(Region::new(region));
        }
        if let Some(profile) = self.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(url) = self.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        if let Some(StaticCredentials { key_id, secret, session_token }) = self.credentials {
            let token = session_token.map(|token| token.expose_secret().to_owned());
            loader = loader.credentials_provider(Credentials::new(
                key_id,
                secret.expose_secret(),
                token,
                None,
                "wakala",
            ));
        }
        let sdk = loader.load().await;
        if sdk.region().is_none_or(|region| region.as_ref().is_empty()) {
            return refuse(
                "no region is set; set AWS_REGION, or a region in the profile, or with_region".to_owned(),
            );
        }
        Ok(Aws { sdk })
    }
}

/// AWS in one region, as one caller. Clones share connections.
#[derive(Clone)]
pub struct Aws {
    sdk: SdkConfig,
}

// The SDK's own form is pages long.
impl fmt::Debug for Aws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aws").field("region", &self.region()).finish_non_exhaustive()
    }
}

impl Aws {
    /// The region.
    pub fn region(&self) -> &str {
        self.sdk.region().map(AsRef::as_ref).unwrap_or_default()
    }

    pub(crate) fn eks(&self) -> aws_sdk_eks::Client {
        aws_sdk_eks::Client::new(&self.sdk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_endpoint_that_is_no_url_is_refused_at_once() {
        let error = AwsConfig::new().with_endpoint_url("localhost:5000").load().await.unwrap_err();
        assert!(error.chain().contains("the endpoint localhost:5000 is no URL"), "{}", error.chain());
    }

    #[tokio::test]
    async fn secrets_are_never_shown() {
        let config = AwsConfig::new().with_region("eu-west-1").with_session_credentials(
            "AKIA",
            SecretString::from("hunter2"),
            SecretString::from("hunter3"),
        );
        let before = format!("{config:?}");
        let aws = config.load().await.unwrap();
        let after = format!("{aws:?} {:?}", crate::NodeGroup::new(&aws, "prod", "api"));
        assert!(before.contains("AKIA") && after.contains("eu-west-1"));
        assert!(!before.contains("hunter") && !after.contains("hunter"), "{before} {after}");
    }
}
