//! Names of things: cheap to clone, printed as they are, serialised as strings.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Makes the name from its text.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// One run of a playbook. Unique in its store.
    RunId
}
id! {
    /// A step within a playbook, such as `api-replicas`. Unique in its playbook and stable between versions of it.
    StepId
}
id! {
    /// A thing that can be scaled, as a person would name it: `deployment production/wakala-api`.
    TargetId
}
id! {
    /// A guard within a playbook, such as `error-rate`.
    GuardId
}
id! {
    /// The provider's version of what was read (a resourceVersion, an ETag): compared for equality only.
    Version
}
id! {
    /// What a run takes for itself, from the general to the particular, parts separated by `/`:
    /// `kubernetes/production/deployments/wakala-api`.
    ResourceKey
}

impl RunId {
    /// A new name that sorts by time (UUID version 7).
    pub fn generate() -> Self {
        Self::from(uuid::Uuid::now_v7().to_string())
    }
}

impl ResourceKey {
    /// Whether the two keys name the same thing, or one names a part of the other.
    ///
    /// ```
    /// use wakala_core::ResourceKey;
    ///
    /// let namespace = ResourceKey::from("kubernetes/production");
    /// assert!(namespace.overlaps(&"kubernetes/production/deployments/wakala-api".into()));
    /// assert!(!namespace.overlaps(&"kubernetes/production-2".into()));
    /// ```
    pub fn overlaps(&self, other: &Self) -> bool {
        let (short, long) = if self.0.len() <= other.0.len() { (self, other) } else { (other, self) };
        long.0.strip_prefix(short.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}
