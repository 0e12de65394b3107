//! One macro makes a settings struct and, from its doc comments and defaults, its description:
//! what the example file is printed from and what unknown keys are compared with.

/// One key of a section.
pub(crate) struct Field {
    pub(crate) key: &'static str,
    /// The lines of the doc comment.
    pub(crate) doc: &'static [&'static str],
    pub(crate) shape: Shape,
}

pub(crate) enum Shape {
    /// A value; `sample` is the default, or an example where there is no default, as TOML.
    Value { sample: String, text: bool },
    /// A value that a file has to set.
    Required { sample: String },
    /// `[key]`
    Table(Vec<Field>),
    /// `[[key]]`; `shown` is whether the example file has one that is not commented out.
    Tables(Vec<Field>),
}

/// A struct that [`settings!`] made.
pub(crate) trait Described {
    fn fields() -> Vec<Field>;
}

/// Whether a value of this type is a text in TOML, so that an environment variable holds it bare.
pub(crate) fn is_text(sample: &str) -> bool {
    sample.starts_with('"')
}

/// The TOML form of a default.
pub(crate) fn sample<T: serde::Serialize>(value: &T) -> String {
    toml::Value::try_from(value).map_or_else(|_| String::new(), |v| v.to_string())
}

macro_rules! settings {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident {
            $( $(#[doc = $fdoc:literal])* $kind:ident $key:ident : $ty:ty = $default:expr
               $(, like $like:literal)? ; )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $( $(#[doc = $fdoc])* pub $key: $ty, )* }

        impl Default for $name {
            fn default() -> Self { Self { $( $key: $default, )* } }
        }

        impl $crate::describe::Described for $name {
            fn fields() -> Vec<$crate::describe::Field> {
                vec![ $( $crate::describe::Field {
                    key: stringify!($key),
                    doc: &[$($fdoc),*],
                    shape: settings!(@shape $kind $ty, $default $(, $like)?),
                }, )* ]
            }
        }
    };
    (@shape value $ty:ty, $default:expr) => {{
        let default: $ty = $default;
        let sample = $crate::describe::sample(&default);
        let text = $crate::describe::is_text(&sample);
        $crate::describe::Shape::Value { sample, text }
    }};
    (@shape value $ty:ty, $default:expr, $like:literal) => {
        $crate::describe::Shape::Value {
            sample: $like.to_owned(),
            text: $crate::describe::is_text($like),
        }
    };
    (@shape required $ty:ty, $default:expr, $like:literal) => {
        $crate::describe::Shape::Required { sample: $like.to_owned() }
    };
    (@shape table $ty:ty, $default:expr) => {
        $crate::describe::Shape::Table(<$ty as $crate::describe::Described>::fields())
    };
    (@shape tables $ty:ty, $default:expr) => {
        $crate::describe::Shape::Tables(
            <<$ty as IntoIterator>::Item as $crate::describe::Described>::fields(),
        )
    };
}
pub(crate) use settings;

/// The annotated example file: every key with its documentation. A line that starts with `#` and
/// no space is a default (or an example, where the documentation says that there is none).
#[must_use]
pub fn example() -> String {
    let mut out = String::from(
        "# The settings of Resuni. `resuni config example` prints this file; `resuni config check`\n\
         # reads yours. A line like `#key = value` shows the default: remove the # to change it.\n\
         # Each key can also be set by an environment variable: `enabled` of [federation] is\n\
         # RESUNI_FEDERATION__ENABLED. Relative paths start at the folder of this file.\n",
    );
    let fields = crate::Config::fields();
    let is_section = |f: &Field| matches!(f.shape, Shape::Table(_) | Shape::Tables(_));
    for field in fields.iter().filter(|f| !is_section(f)) {
        print_value(&mut out, field, "");
    }
    for field in fields.iter().filter(|f| is_section(f)) {
        print_section(&mut out, field, "");
    }
    out
}

fn print_doc(out: &mut String, field: &Field) {
    out.push('\n');
    for line in field.doc {
        out.push_str(format!("#{line}").trim_end());
        out.push('\n');
    }
}

fn print_value(out: &mut String, field: &Field, comment: &str) {
    print_doc(out, field);
    let line = match &field.shape {
        Shape::Value { sample, .. } => wrapped(&format!("#{} = {sample}", field.key)),
        Shape::Required { sample } => format!("{comment}{} = {sample}\n", field.key),
        Shape::Table(_) | Shape::Tables(_) => return,
    };
    out.push_str(&line);
}

/// A long list on several lines, each of which can be uncommented by removing its `#`.
fn wrapped(line: &str) -> String {
    const WIDTH: usize = 90;
    let mut out = String::new();
    let mut width = 0;
    for (i, item) in line.split(", ").enumerate() {
        if i > 0 {
            width += item.len() + 2;
            out.push_str(if width > WIDTH { ",\n#" } else { ", " });
        }
        if i == 0 || width > WIDTH {
            width = item.len();
        }
        out.push_str(item);
    }
    out.push('\n');
    out
}

fn print_section(out: &mut String, field: &Field, parent: &str) {
    let path = format!("{parent}{}", field.key);
    print_doc(out, field);
    let fields = match &field.shape {
        Shape::Table(fields) => {
            out.push_str(&format!("[{path}]\n"));
            fields
        }
        Shape::Tables(fields) => {
            out.push_str(&format!("#[[{path}]]\n"));
            fields
        }
        Shape::Value { .. } | Shape::Required { .. } => return,
    };
    let comment = if matches!(field.shape, Shape::Tables(_)) {
        "#"
    } else {
        ""
    };
    for inner in fields {
        match inner.shape {
            Shape::Table(_) | Shape::Tables(_) => {
                print_section(out, inner, &format!("{path}."));
            }
            _ => print_value(out, inner, comment),
        }
    }
}

/// Every key with its full name (`federation.enabled`, `listeners.port`) and its documentation.
#[must_use]
pub fn keys() -> Vec<(String, String)> {
    fn walk(fields: &[Field], prefix: &str, out: &mut Vec<(String, String)>) {
        for field in fields {
            let name = format!("{prefix}{}", field.key);
            let doc = field
                .doc
                .iter()
                .map(|l| l.trim())
                .collect::<Vec<_>>()
                .join(" ");
            match &field.shape {
                Shape::Table(inner) | Shape::Tables(inner) => {
                    walk(inner, &format!("{name}."), out);
                }
                _ => out.push((name, doc)),
            }
        }
    }
    let mut out = Vec::new();
    walk(&crate::Config::fields(), "", &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_in_the_repository_is_the_example() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../conf/resuni.toml");
        let text = std::fs::read_to_string(path).expect("conf/resuni.toml");
        assert_eq!(text, example(), "stale: run `make example`");
    }

    #[test]
    fn the_example_as_it_stands_is_the_defaults() {
        let read: crate::Config = toml::from_str(&example()).unwrap();
        let defaults = crate::Config {
            server_name: read.server_name.clone(),
            ..crate::Config::default()
        };
        assert_eq!(read, defaults);
    }

    /// Every line that the file offers to uncomment can be uncommented, all at once.
    #[test]
    fn each_line_of_the_example_can_be_used() {
        let text: String = example()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let read: crate::Config = toml::from_str(&text).unwrap();
        assert_eq!(read.consortium.members.len(), 1);
        assert_eq!(read.listeners.len(), 1);
        assert!(read.registration.shared_secret.is_some());
    }

    #[test]
    fn every_key_is_documented() {
        for (name, doc) in keys() {
            assert!(doc.len() > 10, "{name} has no documentation");
        }
    }
}
