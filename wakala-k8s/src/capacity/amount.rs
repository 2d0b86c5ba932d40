//! Quantities of Kubernetes as numbers.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// CPU, memory and pod slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) cpu_millis: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) pods: u64,
}

/// One of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dimension {
    Cpu,
    Memory,
    Pods,
}

impl Dimension {
    pub(crate) const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Pods];

    pub(crate) fn of(self, amount: &Amount) -> u64 {
        match self {
            Self::Cpu => amount.cpu_millis,
            Self::Memory => amount.memory_bytes,
            Self::Pods => amount.pods,
        }
    }

    /// A number of this dimension, for people.
    pub(crate) fn show(self, number: u64) -> String {
        match self {
            Self::Cpu => format!("{} CPU", trimmed(number as f64 / 1000.0)),
            Self::Memory => {
                let mebibytes = number as f64 / f64::from(1 << 20);
                if mebibytes < 1024.0 {
                    format!("{} MiB memory", trimmed(mebibytes))
                } else {
                    format!("{} GiB memory", trimmed(mebibytes / 1024.0))
                }
            }
            Self::Pods => format!("{number} pod slots"),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Memory => "memory",
            Self::Pods => "pod slots",
        }
    }
}

fn trimmed(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Amount {
    /// What a list of resources (requests, allocatable) has of the three.
    pub(crate) fn of(list: Option<&BTreeMap<String, Quantity>>) -> Self {
        let millis =
            |key: &str| list.and_then(|list| list.get(key)).and_then(|text| millis(&text.0)).unwrap_or(0);
        Self {
            cpu_millis: millis("cpu"),
            memory_bytes: millis("memory").div_ceil(1000),
            pods: millis("pods") / 1000,
        }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        self.combine(other, u64::saturating_add)
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        self.combine(other, u64::saturating_sub)
    }

    pub(crate) fn at_least(self, other: Self) -> Self {
        self.combine(other, u64::max)
    }

    pub(crate) fn times(self, count: u64) -> Self {
        self.combine(self, |one, _| one.saturating_mul(count))
    }

    fn combine(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            cpu_millis: with(self.cpu_millis, other.cpu_millis),
            memory_bytes: with(self.memory_bytes, other.memory_bytes),
            pods: with(self.pods, other.pods),
        }
    }

    /// How many times `each` goes into it.
    pub(crate) fn fits(&self, each: &Self) -> u64 {
        Dimension::ALL.iter().map(|dimension| self.fits_by(*dimension, each)).min().unwrap_or(0)
    }

    /// The same, as if the other dimensions were endless.
    pub(crate) fn fits_by(&self, dimension: Dimension, each: &Self) -> u64 {
        dimension.of(self).checked_div(dimension.of(each)).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", Dimension::Cpu.show(self.cpu_millis), Dimension::Memory.show(self.memory_bytes))
    }
}

/// A quantity in thousandths, rounded up as Kubernetes rounds; `None` where it is none, negative, or beyond counting.
///
/// Our own since the crate there is (kube_quantity 0.9) parses by way of `f64` and makes 1 Gi of `1.5Gi`.
pub(crate) fn millis(text: &str) -> Option<u64> {
    let text = text.trim();
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // More digits than Kubernetes keeps (nano) say nothing.
    let fraction = &fraction[..fraction.len().min(12)];
    let digits: u128 = format!("0{whole}{fraction}").parse().ok()?;
    let (binary, decimal): (u32, i32) = match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => (0, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let exponent = decimal.checked_add(3)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let power = 10_u128.checked_pow(exponent.unsigned_abs())?;
    let scaled = digits.checked_mul(1 << binary)?;
    let thousandths = if exponent < 0 { scaled.div_ceil(power) } else { scaled.checked_mul(power)? };
    u64::try_from(thousandths).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, expected) in [
            ("0", Some(0)),
            ("250m", Some(250)),
            ("0.25", Some(250)),
            (".5", Some(500)),
            ("1.", Some(1000)),
            ("2", Some(2000)),
            ("+2", Some(2000)),
            ("100u", Some(1)),
            ("1n", Some(1)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("512Mi", Some(536_870_912_000)),
            ("128974848", Some(128_974_848_000)),
            ("129e6", Some(129_000_000_000)),
            ("129E6", Some(129_000_000_000)),
            ("1E", None),
            ("129M", Some(129_000_000_000)),
            ("123Ki", Some(125_952_000)),
            ("1e-3", Some(1)),
            ("-1", None),
            ("", None),
            (".", None),
            ("1.2.3", None),
            ("12x", None),
            ("1Kib", None),
        ] {
            assert_eq!(millis(text), expected, "{text}");
        }
    }

    #[test]
    fn the_scarcest_dimension_decides() {
        let free = Amount { cpu_millis: 4000, memory_bytes: 4 << 30, pods: 100 };
        let each = Amount { cpu_millis: 250, memory_bytes: 1 << 30, pods: 1 };
        assert_eq!((free.fits(&each), free.fits_by(Dimension::Cpu, &each)), (4, 16));
        let nothing = Amount { pods: 1, ..Amount::default() };
        assert_eq!(free.fits(&nothing), 100);
    }

    #[test]
    fn amounts_are_shown_in_units_of_their_size() {
        let amount = Amount { cpu_millis: 12_250, memory_bytes: 512 << 20, pods: 0 };
        assert_eq!(amount.to_string(), "12.25 CPU, 512 MiB memory");
        assert_eq!(Dimension::Memory.show(3 << 29), "1.5 GiB memory");
    }
}
