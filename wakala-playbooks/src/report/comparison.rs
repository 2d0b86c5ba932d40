//! A table that compares alternatives.

use maud::{Markup, html};

use super::text;

/// Which of the values in a row is the best.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// The largest.
    Higher,
    /// The smallest.
    Lower,
    /// None is: the row only informs.
    Neither,
}

/// A table that compares alternatives, one a column. The best value of a row is emphasised, unless all are the same.
#[derive(Clone, Debug)]
pub struct Comparison {
    columns: Vec<String>,
    rows: Vec<Row>,
    note: Option<String>,
}

#[derive(Clone, Debug)]
struct Row {
    name: String,
    unit: String,
    better: Better,
    values: Vec<f64>,
}

impl Comparison {
    /// A table of these columns without rows.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = S>) -> Self {
        Self { columns: columns.into_iter().map(Into::into).collect(), rows: Vec::new(), note: None }
    }

    /// Adds a row: its name, the unit of its values, which is the best, and one value a column, in the order of the
    /// columns.
    ///
    /// A value that is missing or not a number is shown as a dash.
    #[must_use]
    pub fn with_row(
        mut self,
        name: impl Into<String>,
        unit: impl Into<String>,
        better: Better,
        values: impl IntoIterator<Item = f64>,
    ) -> Self {
        self.rows.push(Row {
            name: name.into(),
            unit: unit.into(),
            better,
            values: values.into_iter().collect(),
        });
        self
    }

    /// A line below the table.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    pub(super) fn markup(&self) -> Markup {
        html! {
            section class="comparison" {
                h2 { "Compared" }
                table {
                    thead {
                        tr {
                            th scope="col" { span class="sr" { "Measure" } }
                            @for column in &self.columns { th scope="col" class="num" { (column) } }
                        }
                    }
                    tbody {
                        @for row in &self.rows { (row.markup(self.columns.len())) }
                    }
                }
                @if let Some(note) = &self.note { p class="note" { (note) } }
            }
        }
    }
}

impl Row {
    fn markup(&self, columns: usize) -> Markup {
        let values: Vec<_> = (0..columns)
            .map(|column| self.values.get(column).copied().filter(|value| value.is_finite()))
            .collect();
        let shown = text::column(&values);
        let best = self.best(&values, &shown);
        html! {
            tr {
                th scope="row" {
                    (self.name)
                    @if !self.unit.is_empty() { span class="unit" { ", " (self.unit) } }
                }
                @for value in shown {
                    @match value {
                        Some(text) if best.as_ref() == Some(&text) => td class="num best" { strong { (text) } },
                        Some(text) => td class="num" { (text) },
                        None => td class="num" { "\u{2013}" },
                    }
                }
            }
        }
    }

    /// The best value as it is shown: what looks the same is equally good.
    fn best(&self, values: &[Option<f64>], shown: &[Option<String>]) -> Option<String> {
        let pairs =
            || values.iter().copied().zip(shown).filter_map(|(value, text)| Some((value?, text.as_ref()?)));
        let lowest = pairs().min_by(|a, b| a.0.total_cmp(&b.0))?.1;
        let highest = pairs().max_by(|a, b| a.0.total_cmp(&b.0))?.1;
        match self.better {
            _ if lowest == highest => None,
            Better::Higher => Some(highest.clone()),
            Better::Lower => Some(lowest.clone()),
            Better::Neither => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(better: Better, values: &[f64]) -> String {
        let values = values.to_vec();
        let columns = 3;
        Row { name: "r".into(), unit: String::new(), better, values }.markup(columns).into_string()
    }

    #[test]
    fn the_best_is_emphasised() {
        assert!(row(Better::Lower, &[3.0, 1.5, 2.0]).contains("<strong>1.5</strong>"));
        assert!(row(Better::Higher, &[3.0, 1.5, 2.0]).contains("<strong>3.0</strong>"));
        assert_eq!(row(Better::Lower, &[1.0, 1.0, 2.0]).matches("<strong>").count(), 2);
        for nothing_to_choose in
            [row(Better::Neither, &[1.0, 2.0, 3.0]), row(Better::Lower, &[2.0, 2.0, 2.0])]
        {
            assert!(!nothing_to_choose.contains("<strong>"));
        }
    }

    #[test]
    fn what_is_missing_is_a_dash_and_never_the_best() {
        let row = row(Better::Lower, &[f64::NAN, 2.0]);
        assert_eq!(row.matches('\u{2013}').count(), 2);
        assert!(!row.contains("<strong>"));
    }
}
