//! Updates of a node group: what EKS says about a change on its way.

use aws_sdk_eks::types::{self, ErrorDetail, UpdateStatus};
use wakala_core::{Error, ErrorKind, Retry, Units};

use super::NodeGroupSizes;

/// A change of a node group, as EKS reports it.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    pub(crate) id: String,
    /// What sort of change: `ConfigUpdate`, `VersionUpdate`.
    sort: String,
    status: UpdateStatus,
    errors: Vec<ErrorDetail>,
    min: Option<Units>,
    desired: Option<Units>,
    max: Option<Units>,
}

impl Update {
    /// `None` for an update without id or status, which the API always gives.
    pub(crate) fn read(update: types::Update) -> Option<Self> {
        let params = update.params.unwrap_or_default();
        let size = |name: &str| {
            let param =
                params.iter().find(|param| param.r#type.as_ref().is_some_and(|sort| sort.as_str() == name));
            param.and_then(|param| param.value.as_ref()?.parse().ok()).map(Units)
        };
        Some(Self {
            id: update.id?,
            sort: update.r#type.map_or_else(|| "update".to_owned(), |sort| sort.as_str().to_owned()),
            status: update.status?,
            errors: update.errors.unwrap_or_default(),
            min: size("MinSize"),
            desired: size("DesiredSize"),
            max: size("MaxSize"),
        })
    }

    pub(crate) fn is_in_progress(&self) -> bool {
        self.status == UpdateStatus::InProgress
    }

    /// The sizes that a group with `sizes` has once this update is done.
    pub(crate) fn lead_on(&self, sizes: NodeGroupSizes) -> NodeGroupSizes {
        NodeGroupSizes {
            min: self.min.unwrap_or(sizes.min),
            desired: self.desired.unwrap_or(sizes.desired),
            max: self.max.unwrap_or(sizes.max),
        }
    }

    /// For people: `ConfigUpdate 0193…`.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.sort, self.id)
    }

    /// The error of an update that will never take effect; `None` for every other.
    pub(crate) fn failure(&self) -> Option<Error> {
        let how = match self.status {
            UpdateStatus::Cancelled => "was cancelled",
            UpdateStatus::Failed => "failed",
            _ => return None,
        };
        let details: Vec<String> = self.errors.iter().map(describe).collect();
        let why = if details.is_empty() { "EKS gives no reason".to_owned() } else { details.join("; ") };
        let kind = self.errors.iter().map(kind_of).find(|kind| *kind != ErrorKind::Unexpected);
        let message = format!("{} {how}, the sizes are as before: {why}", self.name());
        let kind = kind.unwrap_or(ErrorKind::Unexpected);
        Some(Error::new(kind, "describe_update", message).with_retry(Retry::Never))
    }
}

fn describe(error: &ErrorDetail) -> String {
    let code = error.error_code.as_ref().map_or("no code", |code| code.as_str());
    format!("{code}: {}", error.error_message.as_deref().unwrap_or("no message").trim_end_matches('.'))
}

fn kind_of(error: &ErrorDetail) -> ErrorKind {
    let code = error.error_code.as_ref().map(|code| code.as_str()).unwrap_or_default();
    let text = error.error_message.as_deref().unwrap_or_default();
    match code {
        "AsgInstanceLaunchFailures"
        | "EniLimitReached"
        | "InstanceLimitExceeded"
        | "InsufficientFreeAddresses"
        | "IpNotAvailable" => ErrorKind::InsufficientCapacity,
        "AccessDenied" | "AdmissionRequestDenied" | "OperationNotPermitted" => ErrorKind::Denied,
        "SecurityGroupNotFound" | "SubnetNotFound" | "VpcIdNotFound" => ErrorKind::InvalidConfig,
        // The Auto Scaling group's words, passed on under a general code.
        _ if text.contains("InsufficientInstanceCapacity") || text.contains("InstanceLimitExceeded") => {
            ErrorKind::InsufficientCapacity
        }
        _ => ErrorKind::Unexpected,
    }
}
