//! The environment, laid over the file: `RESUNI_SECTION__KEY`.

use strsim::damerau_levenshtein;
use toml::{Table, Value};

use crate::describe::{Field, Shape};
use crate::error::Problem;

const PREFIX: &str = "RESUNI_";
/// Variables with the prefix that are not settings.
const OTHERS: &[&str] = &["RESUNI_CONFIG"];

/// Puts the settings of the environment into `table`.
///
/// A name that can't be a key is refused when it has the double underscore of a section, or when
/// it is nearly a key; any other is left alone, as it may belong to a script around the server.
pub(crate) fn overlay(
    table: &mut Table,
    fields: &[Field],
    variables: impl Iterator<Item = (String, String)>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, text) in variables {
        let Some(path) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if OTHERS.contains(&name.as_str()) {
            continue;
        }
        let path: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
        match find(fields, &path) {
            Some(field) => match parse(field, &text) {
                Ok(value) => insert(table, &path, value),
                Err(what) => problems.push(Problem::new(name, what, crate::load::meaning(field))),
            },
            None => problems.extend(unknown(&name, &path, fields)),
        }
    }
    problems
}

fn find<'a>(fields: &'a [Field], path: &[String]) -> Option<&'a Field> {
    let (first, rest) = path.split_first()?;
    let field = fields.iter().find(|f| f.key == first)?;
    match (&field.shape, rest.is_empty()) {
        (Shape::Table(inner), false) => find(inner, rest),
        (Shape::Table(_), true) | (_, false) => None,
        (_, true) => Some(field),
    }
}

/// A text is taken as it stands; anything else is a TOML value.
fn parse(field: &Field, text: &str) -> Result<Value, String> {
    let bare = match &field.shape {
        Shape::Value { text, .. } => *text,
        Shape::Required { .. } => true,
        Shape::Table(_) | Shape::Tables(_) => false,
    };
    if bare {
        return Ok(Value::String(text.to_owned()));
    }
    let table: Table = toml::from_str(&format!("v = {text}"))
        .map_err(|_| format!("`{text}` is not a TOML value."))?;
    table
        .get("v")
        .cloned()
        .ok_or_else(|| "there is no value.".to_owned())
}

fn insert(table: &mut Table, path: &[String], value: Value) {
    match path {
        [] => {}
        [key] => {
            table.insert(key.clone(), value);
        }
        [key, rest @ ..] => {
            let inner = table
                .entry(key.clone())
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

fn unknown(name: &str, path: &[String], fields: &[Field]) -> Option<Problem> {
    let mut known = Vec::new();
    names(fields, PREFIX, &mut known);
    let (nearest, distance) = known
        .into_iter()
        .map(|k| {
            let distance = damerau_levenshtein(&k, name);
            (k, distance)
        })
        .min_by_key(|(_, distance)| *distance)?;
    (path.len() > 1 || distance <= 2).then(|| {
        Problem::new(
            name,
            "there is no setting for this environment variable.",
            format!("The nearest is {nearest}."),
        )
    })
}

fn names(fields: &[Field], prefix: &str, out: &mut Vec<String>) {
    for field in fields {
        let name = format!("{prefix}{}", field.key.to_ascii_uppercase());
        match &field.shape {
            Shape::Table(inner) => names(inner, &format!("{name}__"), out),
            _ => out.push(name),
        }
    }
}
