//! What a sender says of a file beside its name and type: a few short names and values, such as `protocol-year=2026`.
//!
//! **Invariant:** names and values are printable ASCII without spaces, commas, quotes and what URLs, tables and markup
//! give a meaning to, and values begin with a letter or digit: they stand in a header, a query, a log and a report as
//! they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{
    MAX_ATTRIBUTE_NAME_BYTES, MAX_ATTRIBUTE_RULES, MAX_ATTRIBUTE_VALUE_BYTES, MAX_ATTRIBUTES,
};

/// Why a text is no attribute. The text is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// No `=`.
    #[error("an attribute is NAME=VALUE")]
    Form,
    /// A name that is none.
    #[error(
        "an attribute's name must be 1 to {MAX_ATTRIBUTE_NAME_BYTES} characters of a-z, 0-9, `_`, `.` and `-`, beginning \
         with a letter or digit"
    )]
    Name,
    /// A value that is none.
    #[error(
        "an attribute's value must be 1 to {MAX_ATTRIBUTE_VALUE_BYTES} characters of A-Z, a-z, 0-9, `_`, `.`, `:`, `@`, \
         `/` and `-`, beginning with a letter or digit"
    )]
    Value,
    /// A name that stands there twice.
    #[error("an attribute stands there twice")]
    Twice,
    /// Too many.
    #[error("a file may have {MAX_ATTRIBUTES} attributes")]
    Many,
    /// Too many rules.
    #[error("a cohort may name {MAX_ATTRIBUTE_RULES} attributes, and of each as many values")]
    Rules,
}

/// The name of the attribute that says which file this one was made from, by its id. Any cohort takes it; storaged looks
/// whether the file is there and open to the sender.
pub const DERIVED_FROM: &str = "derived-from";

/// One attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attribute {
    name: String,
    value: String,
}

impl Attribute {
    /// Takes `NAME=VALUE`.
    pub fn parse(text: &str) -> Result<Attribute, AttributeError> {
        let (name, value) = text.split_once('=').ok_or(AttributeError::Form)?;
        if !is_name(name) {
            return Err(AttributeError::Name);
        }
        if !is_value(value) {
            return Err(AttributeError::Value);
        }
        Ok(Attribute { name: name.to_owned(), value: value.to_owned() })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

impl FromStr for Attribute {
    type Err = AttributeError;

    fn from_str(text: &str) -> Result<Attribute, AttributeError> {
        Attribute::parse(text)
    }
}

/// Whether a text can name an attribute.
pub fn is_name(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=MAX_ATTRIBUTE_NAME_BYTES).contains(&bytes.len())
        && plain(bytes[0])
        && bytes.iter().all(|&c| plain(c) || matches!(c, b'_' | b'.' | b'-'))
}

/// Whether a text can be an attribute's value.
pub fn is_value(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=MAX_ATTRIBUTE_VALUE_BYTES).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|&c| c.is_ascii_alphanumeric() || b"_.:@/-".contains(&c))
}

/// A file's attributes, each name once; in JSON an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Attributes(BTreeMap<String, String>);

impl Attributes {
    /// Takes lists of attributes, as header fields and their combination hold them: `a=1, b=2`.
    pub fn parse_lists<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<Attributes, AttributeError> {
        let mut found = Attributes::default();
        for text in lists.into_iter().flat_map(|list| list.split(',')).map(str::trim) {
            if !text.is_empty() {
                found.add(Attribute::parse(text)?)?;
            }
        }
        Ok(found)
    }

    /// One more.
    pub fn add(&mut self, Attribute { name, value }: Attribute) -> Result<(), AttributeError> {
        if self.0.len() == MAX_ATTRIBUTES {
            return Err(AttributeError::Many);
        }
        if self.0.insert(name, value).is_some() { Err(AttributeError::Twice) } else { Ok(()) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether this is one of them.
    pub fn has(&self, attribute: &Attribute) -> bool {
        self.0.get(&attribute.name).is_some_and(|value| *value == attribute.value)
    }

    /// As one header field holds them: `a=1,b=2`.
    pub fn to_list(&self) -> String {
        let texts: Vec<String> = self.iter().map(|(name, value)| format!("{name}={value}")).collect();
        texts.join(",")
    }
}

/// The attributes that a cohort's files may have: each name with its values, and with none of them: any. No names: all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Rules", into = "Rules")]
pub struct AttributeRules(Rules);

type Rules = BTreeMap<String, BTreeSet<String>>;

impl AttributeRules {
    /// Takes what stands on a command line: `NAME`, or `NAME=VALUE`.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<AttributeRules, AttributeError> {
        let mut rules = Rules::new();
        for text in texts {
            let (name, value) = match text.split_once('=') {
                None => (text, None),
                Some((name, value)) => (name, Some(value)),
            };
            rules.entry(name.to_owned()).or_default().extend(value.map(str::to_owned));
        }
        rules.try_into()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a file with these may be stored.
    pub fn take(&self, attributes: &Attributes) -> bool {
        self.is_empty()
            || attributes.iter().all(|(name, value)| match self.0.get(name) {
                Some(values) => values.is_empty() || values.contains(value),
                None => name == DERIVED_FROM,
            })
    }
}

impl TryFrom<Rules> for AttributeRules {
    type Error = AttributeError;

    fn try_from(rules: Rules) -> Result<AttributeRules, AttributeError> {
        if rules.len() > MAX_ATTRIBUTE_RULES
            || rules.values().any(|values| values.len() > MAX_ATTRIBUTE_RULES)
        {
            return Err(AttributeError::Rules);
        }
        if !rules.keys().all(|name| is_name(name)) {
            return Err(AttributeError::Name);
        }
        if !rules.values().flatten().all(|value| is_value(value)) {
            return Err(AttributeError::Value);
        }
        Ok(AttributeRules(rules))
    }
}

impl From<AttributeRules> for Rules {
    fn from(rules: AttributeRules) -> Rules {
        rules.0
    }
}

impl TryFrom<BTreeMap<String, String>> for Attributes {
    type Error = AttributeError;

    fn try_from(entries: BTreeMap<String, String>) -> Result<Attributes, AttributeError> {
        if entries.len() > MAX_ATTRIBUTES {
            return Err(AttributeError::Many);
        }
        if !entries.keys().all(|name| is_name(name)) {
            return Err(AttributeError::Name);
        }
        if !entries.values().all(|value| is_value(value)) {
            return Err(AttributeError::Value);
        }
        Ok(Attributes(entries))
    }
}

impl From<Attributes> for BTreeMap<String, String> {
    fn from(attributes: Attributes) -> BTreeMap<String, String> {
        attributes.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_from_fields_and_lists() {
        let read = Attributes::parse_lists(["protocol-year=2026, site=Bern/3", "", "visit=2026-11-22T10:00"]);
        let read = read.unwrap();
        assert_eq!(read.to_list(), "protocol-year=2026,site=Bern/3,visit=2026-11-22T10:00");
        assert_eq!(Attributes::parse_lists([read.to_list().as_str()]), Ok(read.clone()));
        assert!(read.has(&Attribute::parse("site=Bern/3").unwrap()));
        assert!(!read.has(&Attribute::parse("site=Bern").unwrap()));
        assert!(Attributes::parse_lists([]).unwrap().is_empty());
        let json = serde_json::to_value(&read).unwrap();
        assert_eq!(json["protocol-year"], "2026");
        assert_eq!(serde_json::from_value::<Attributes>(json).unwrap(), read);
    }

    #[test]
    fn a_cohort_says_which_attributes_its_files_may_have() {
        let rules = AttributeRules::parse(["site", "year=2025", "year=2026"]).unwrap();
        let taken = |list: &str| rules.take(&Attributes::parse_lists([list]).unwrap());
        assert!(taken("") && taken("year=2026") && taken("site=x,year=2025"));
        assert!(!taken("year=2024") && !taken("other=1") && !taken("year=2026,other=1"));
        assert!(AttributeRules::default().take(&Attributes::parse_lists(["any=thing"]).unwrap()));
        assert_eq!(AttributeRules::parse(["Site"]), Err(AttributeError::Name));
        assert_eq!(AttributeRules::parse(["site="]), Err(AttributeError::Value));
        let json = serde_json::to_value(&rules).unwrap();
        assert_eq!(json, serde_json::json!({"site": [], "year": ["2025", "2026"]}));
        assert_eq!(serde_json::from_value::<AttributeRules>(json).unwrap(), rules);
    }

    #[test]
    fn what_could_mean_something_elsewhere_is_no_attribute() {
        let long = format!("a={}", "x".repeat(MAX_ATTRIBUTE_VALUE_BYTES + 1));
        for (bad, expected) in [
            ("year", AttributeError::Form),
            ("=2026", AttributeError::Name),
            ("Year=2026", AttributeError::Name),
            ("-year=2026", AttributeError::Name),
            ("ye ar=2026", AttributeError::Name),
            ("year=", AttributeError::Value),
            ("year==2026", AttributeError::Value),
            ("year=-2026", AttributeError::Value),
            ("year=@SUM(1)", AttributeError::Value),
            ("year=<b>", AttributeError::Value),
            ("year=a b", AttributeError::Value),
            ("year=20&26", AttributeError::Value),
            ("year=2026\r\nx: y", AttributeError::Value),
            ("year=zürich", AttributeError::Value),
            (&long, AttributeError::Value),
        ] {
            assert_eq!(Attribute::parse(bad), Err(expected), "{bad:?}");
            assert!(Attributes::parse_lists([bad]).is_err());
        }
        assert_eq!(Attributes::parse_lists(["a=1,a=2"]), Err(AttributeError::Twice));
        let many: Vec<String> = (0..=MAX_ATTRIBUTES).map(|n| format!("a{n}=1")).collect();
        assert_eq!(Attributes::parse_lists(many.iter().map(String::as_str)), Err(AttributeError::Many));
        for bad in [r#"{"A": "1"}"#, r#"{"a": ""}"#, r#"{"a": "=1"}"#] {
            assert!(serde_json::from_str::<Attributes>(bad).is_err(), "{bad}");
        }
    }
}
