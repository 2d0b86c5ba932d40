//! The statements, by what they do.

use crate::config::quoted;
use crate::mover::table::Table;

/// What a statement does to a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Deed {
    /// Parameters: all columns.
    Insert,
    /// Parameters: the key, then the columns said to be known that are not of the key.
    Update(Vec<bool>),
    /// To another key. Parameters: the former key, then all columns said to be known.
    Rekey(Vec<bool>),
    /// As `Rekey`, but by deleting the row and inserting it again: for columns that no update may name.
    Reinsert(Vec<bool>),
    /// Parameters: the key.
    Delete,
}

/// How a statement is given its rows, and who looks at how many it hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// An array for each parameter, and the number of rows as one more: the server fails where it is another.
    Many,
    /// One row; the server fails where it hits none or several.
    One,
    /// One row; whoever sent it looks at the count.
    Plain,
}

/// What the server says where a statement hit another number of rows; part of the text of the error.
pub(super) const MISCOUNT: &str = "wakala: ";

/// Of which columns the parameters are, in order; without the number of rows.
pub(super) fn parameters(table: &Table, deed: &Deed) -> Vec<usize> {
    let is_key = |at: &usize| table.key.contains(at);
    let all = 0..table.columns.len();
    match deed {
        Deed::Insert => all.collect(),
        Deed::Delete => table.key.clone(),
        Deed::Update(known) => {
            table.key.iter().copied().chain(all.filter(|at| known[*at] && !is_key(at))).collect()
        }
        Deed::Rekey(known) | Deed::Reinsert(known) => {
            table.key.iter().copied().chain(all.filter(|at| known[*at])).collect()
        }
    }
}

/// The statement. `equals` has the operators by which the columns of the key are compared.
pub(super) fn text(table: &Table, deed: &Deed, form: Form, equals: &[String]) -> String {
    let parameters = parameters(table, deed);
    let value = |at: usize| match form {
        Form::Many => format!("n.c{at}"),
        Form::One | Form::Plain => format!("${}", at + 1),
    };
    let list = |prefix: &str| {
        (0..parameters.len())
            .map(|at| format!("{prefix}{}", at + usize::from(prefix == "$")))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let rows = format!("unnest({}) AS n({})", list("$"), list("c"));
    let name = |column: usize| quoted(&table.columns[column].name);
    let quoted_table = table.quoted();
    let keys =
        (0..table.key.len()).map(|at| format!("t.{} {} {}", name(table.key[at]), equals[at], value(at)));
    let mut found = keys.collect::<Vec<_>>();
    let change = match deed {
        Deed::Insert => {
            let source = match form {
                Form::Many => format!("SELECT {} FROM {rows}", list("n.c")),
                Form::One | Form::Plain => format!("VALUES ({})", list("$")),
            };
            let columns = table.column_list();
            format!("INSERT INTO {quoted_table} ({columns}) OVERRIDING SYSTEM VALUE {source}")
        }
        Deed::Delete => {
            let using = if form == Form::Many { format!(" USING {rows}") } else { String::new() };
            format!("DELETE FROM {quoted_table} AS t{using} WHERE {}", found.join(" AND "))
        }
        Deed::Update(_) | Deed::Rekey(_) => {
            let mut sets = Vec::new();
            for (at, column) in parameters.iter().enumerate().skip(table.key.len()) {
                if table.columns[*column].identity_always {
                    // Not to be named by SET. Almost always it is as it was; where not, no row is hit, and the changes
                    // are repeated one by one.
                    found.push(format!("t.{} = {}", name(*column), value(at)));
                } else {
                    sets.push(format!("{} = {}", name(*column), value(at)));
                }
            }
            if sets.is_empty() {
                // Nothing of it changed that is known here; that it is there is to be shown all the same.
                sets.push(format!("{0} = t.{0}", name(table.tenant)));
            }
            let from = if form == Form::Many { format!(" FROM {rows}") } else { String::new() };
            format!("UPDATE {quoted_table} AS t SET {}{from} WHERE {}", sets.join(", "), found.join(" AND "))
        }
        Deed::Reinsert(known) => {
            let mut place = table.key.len();
            let values = (0..table.columns.len()).map(|column| {
                if known[column] {
                    place += 1;
                    format!("${place}")
                } else {
                    format!("d.{}", name(column))
                }
            });
            let values = values.collect::<Vec<_>>().join(", ");
            return format!(
                "WITH d AS (DELETE FROM {quoted_table} AS t WHERE {} RETURNING t.*) \
                 INSERT INTO {quoted_table} ({}) OVERRIDING SYSTEM VALUE SELECT {values} FROM d",
                found.join(" AND "),
                table.column_list()
            );
        }
    };
    match form {
        Form::Plain => change,
        Form::One => counted(&change, "1"),
        Form::Many => counted(&change, &format!("${}", parameters.len() + 1)),
    }
}

/// A change that fails on the server where it hits another number of rows. Nobody needs to see the answer before more is
/// sent, the end of the transaction included: after a failure that does nothing.
pub(super) fn counted(change: &str, rows: &str) -> String {
    format!(
        "WITH w AS ({change} RETURNING 1) SELECT CASE WHEN count(*) = {rows} THEN 0 \
         ELSE format('{MISCOUNT}%s rows instead of %s', count(*), {rows})::integer END FROM w"
    )
}
