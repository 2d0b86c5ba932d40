//! Colours and layout.

use std::fmt::Write as _;

use plotters::style::RGBColor;

/// A colour of the charts by what it is for.
///
/// The charts carry the light colours as attributes, each used for one purpose only; the style sheet finds them by
/// their value and puts the colour of the reader's scheme in their place.
#[derive(Debug)]
pub(super) struct Ink {
    /// Its class in the style sheet.
    pub(super) name: &'static str,
    pub(super) light: RGBColor,
    dark: &'static str,
}

const fn ink(name: &'static str, (r, g, b): (u8, u8, u8), dark: &'static str) -> Ink {
    Ink { name, light: RGBColor(r, g, b), dark }
}

/// Told apart also by those who see few colours; used from the first on, then again from the first.
pub(super) static SERIES: [Ink; 5] = [
    ink("s0", (0x0B, 0x62, 0xD6), "#6cb0ff"),
    ink("s1", (0xD9, 0x6C, 0x00), "#ffae57"),
    ink("s2", (0x0A, 0x8F, 0x6E), "#45d6ae"),
    ink("s3", (0x8B, 0x4F, 0xD1), "#c9a2ff"),
    ink("s4", (0xB8, 0x32, 0x7F), "#ff8cc6"),
];
pub(super) static AREA: Ink = ink("area", (0x73, 0x80, 0x92), "#8d99a8");
pub(super) static LIMIT: Ink = ink("limit", (0xB4, 0x23, 0x18), "#ff8a80");
pub(super) static SPAN: Ink = ink("span", (0xD4, 0xA7, 0x2C), "#e3b341");
pub(super) static SPAN_TEXT: Ink = ink("span-text", (0x7D, 0x5A, 0x00), "#e3b341");
pub(super) static MARK: Ink = ink("mark", (0x57, 0x60, 0x6A), "#9aa4af");
pub(super) static MARK_TEXT: Ink = ink("mark-text", (0xFF, 0xFF, 0xFF), "#0d1117");
pub(super) static FAILURE: Ink = ink("failure", (0xCF, 0x22, 0x2E), "#ff7b72");
pub(super) static AXIS: Ink = ink("axis", (0x8C, 0x95, 0x9F), "#6e7681");
pub(super) static GRID: Ink = ink("grid", (0xE3, 0xE7, 0xEB), "#262c34");
pub(super) static LABEL: Ink = ink("label", (0x56, 0x5F, 0x69), "#a0a9b4");

static INKS: [&Ink; 15] = [
    &SERIES[0], &SERIES[1], &SERIES[2], &SERIES[3], &SERIES[4], &AREA, &LIMIT, &SPAN, &SPAN_TEXT, &MARK,
    &MARK_TEXT, &FAILURE, &AXIS, &GRID, &LABEL,
];

/// The whole style sheet.
pub(super) fn css() -> String {
    let (mut light, mut dark, mut rules) = (String::new(), String::new(), String::new());
    for Ink { name, light: RGBColor(r, g, b), dark: dark_value } in INKS {
        let hex = format!("#{r:02X}{g:02X}{b:02X}");
        let _ = write!(light, "--{name}:{hex};");
        let _ = write!(dark, "--{name}:{dark_value};");
        let _ = writeln!(
            rules,
            "svg [fill=\"{hex}\"]{{fill:var(--{name})}}svg [stroke=\"{hex}\"]{{stroke:var(--{name})}}.{name}{{--c:var(--{name})}}"
        );
    }
    let RGBColor(r, g, b) = LIMIT.light;
    // The drawing has four units in a pixel. Dashes as shapes of their own would make the page larger.
    let _ = writeln!(rules, "svg [stroke=\"#{r:02X}{g:02X}{b:02X}\"]{{stroke-dasharray:22 16}}");
    include_str!("page.css")
        .replace("/*light*/", &light)
        .replace("/*dark*/", &dark)
        .replace("/*inks*/", &rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_purpose_has_a_colour_of_its_own() {
        let colours: std::collections::BTreeSet<_> =
            INKS.iter().map(|ink| (ink.light.0, ink.light.1, ink.light.2)).collect();
        assert_eq!(colours.len(), INKS.len());
    }

    #[test]
    fn the_style_sheet_is_complete_and_loads_nothing() {
        let css = css();
        assert!(!css.contains("/*light*/") && !css.contains("/*dark*/") && !css.contains("/*inks*/"));
        assert!(
            !css.contains("url(") && !css.contains("@import") && !css.contains('<') && !css.contains('&')
        );
        assert_eq!(css.matches('{').count(), css.matches('}').count());
    }
}
