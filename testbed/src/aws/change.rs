//! The body of `UpdateNodegroupConfig`: what it may hold, and the sizes it leads to.

use serde_json::{Map, Value, json};

use super::nodegroup::NodegroupSizes;
use super::reply::ApiError;

/// What a caller asks to change. API reference, `UpdateNodegroupConfig`, "Request Body".
#[derive(Debug)]
pub(super) struct Change {
    /// The body without the token: what must be equal for a call to be a repetition.
    pub(super) arguments: Value,
    /// `params` of the update. API reference, data type `UpdateParam`: the values are strings.
    pub(super) params: Value,
    pub(super) sizes: SizesChange,
    pub(super) token: Option<String>,
}

/// API reference, data type `NodegroupScalingConfig`: each member is optional, one left out keeps its value.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SizesChange {
    desired: Option<u32>,
    max: Option<u32>,
    min: Option<u32>,
}

impl Change {
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut arguments = match serde_json::from_slice(body) {
            Ok(Value::Object(members)) => members,
            Ok(_) => return Err(malformed("the body is not a JSON object")),
            Err(error) => return Err(malformed(&error.to_string())),
        };
        arguments.retain(|_, value| !value.is_null());
        let token = match arguments.remove("clientRequestToken") {
            None => None,
            Some(Value::String(token)) => Some(token),
            Some(_) => return Err(malformed("clientRequestToken is not a string")),
        };
        // Not documented; a client that sends nothing has a mistake that a test should show.
        if arguments.is_empty() {
            return Err(ApiError::invalid_parameter("No changes were given for the node group"));
        }
        let sizes = match arguments.get("scalingConfig") {
            None => SizesChange::default(),
            Some(Value::Object(members)) => SizesChange::parse(members)?,
            Some(_) => return Err(malformed("scalingConfig is not an object")),
        };
        let params = params(&sizes, &arguments);
        Ok(Self { arguments: Value::Object(arguments), params, sizes, token })
    }
}

impl SizesChange {
    fn parse(members: &Map<String, Value>) -> Result<Self, ApiError> {
        let size = |name: &str| match members.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let given = value.as_i64().ok_or_else(|| malformed(&format!("{name} is not an integer")))?;
                let size = u32::try_from(given);
                size.map(Some)
                    .map_err(|_| ApiError::invalid_parameter(format!("{name} is not valid: {given}")))
            }
        };
        Ok(Self { desired: size("desiredSize")?, max: size("maxSize")?, min: size("minSize")? })
    }

    /// The sizes after the change, when they are in order.
    pub(super) fn applied_to(self, current: NodegroupSizes) -> Result<NodegroupSizes, ApiError> {
        let sizes = NodegroupSizes {
            min: self.min.unwrap_or(current.min),
            desired: self.desired.unwrap_or(current.desired),
            max: self.max.unwrap_or(current.max),
        };
        sizes.check()?;
        Ok(sizes)
    }
}

impl NodegroupSizes {
    /// 0 <= min <= desired <= max, and max >= 1.
    ///
    /// API reference, data type `NodegroupScalingConfig`, "Valid Range": `minSize` and `desiredSize` from 0, `maxSize`
    /// from 1. That they must be in order is known from the errors that clients report, whose wording is used here;
    /// nobody should depend on it.
    pub(super) fn check(self) -> Result<(), ApiError> {
        let Self { min, desired, max } = self;
        let wrong = if max < 1 {
            format!("maxSize is not valid: {max} is less than 1")
        } else if desired > max {
            format!("desired capacity {desired} can't be greater than max size {max}")
        } else if min > desired {
            format!("Minimum capacity {min} can't be greater than desired size {desired}")
        } else {
            return Ok(());
        };
        Err(ApiError::invalid_parameter(wrong))
    }
}

/// API reference, data type `UpdateParam`, "Contents": the valid values of `type`.
fn params(sizes: &SizesChange, arguments: &Map<String, Value>) -> Value {
    let sizes = [("MinSize", sizes.min), ("MaxSize", sizes.max), ("DesiredSize", sizes.desired)];
    let sizes = sizes.into_iter().filter_map(|(name, size)| Some((name, size?.to_string())));
    let members = [
        ("LabelsToAdd", "labels", "addOrUpdateLabels"),
        ("LabelsToRemove", "labels", "removeLabels"),
        ("TaintsToAdd", "taints", "addOrUpdateTaints"),
        ("TaintsToRemove", "taints", "removeTaints"),
        ("MaxUnavailable", "updateConfig", "maxUnavailable"),
        ("MaxUnavailablePercentage", "updateConfig", "maxUnavailablePercentage"),
    ];
    let members = members.into_iter().filter_map(|(name, outer, inner)| {
        let value = arguments.get(outer)?.get(inner).filter(|value| !value.is_null())?;
        Some((name, value.to_string()))
    });
    sizes.chain(members).map(|(name, value)| json!({"type": name, "value": value})).collect()
}

/// What the protocol's own layer answers before the service sees the request.
fn malformed(what: &str) -> ApiError {
    ApiError::new(hyper::StatusCode::BAD_REQUEST, "SerializationException", what)
}
