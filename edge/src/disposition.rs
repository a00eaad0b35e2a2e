//! The file name in a `Content-Disposition`, as browsers, curl and clients of the upload draft send it.
//!
//! **Invariant:** a name is only ever taken as a [`LogicalPath`](store_proto::LogicalPath): what could climb, or be read as two names, is refused.

use percent_encoding::percent_decode_str;

/// The parameters of a `Content-Disposition` that say which field and which file a part is.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Disposition {
    /// `name=`: of the field of a form.
    pub name: Option<String>,
    /// `filename*=` (RFC 8187) or `filename=`.
    pub filename: Option<String>,
}

impl Disposition {
    /// Reads a value such as `form-data; name="file"; filename="a b.csv"`.
    pub fn parse(value: &str) -> Result<Disposition, &'static str> {
        let mut found = Disposition::default();
        let mut extended = None;
        let (_, mut rest) = value.split_once(';').unwrap_or((value, ""));
        loop {
            rest = rest.trim_start_matches([' ', '\t', ';']);
            if rest.is_empty() {
                break;
            }
            let (key, after) = rest.split_once('=').ok_or("a parameter has no value")?;
            let (text, after) = match after.strip_prefix('"') {
                Some(quoted) => unquote(quoted)?,
                None => {
                    let end = after.find([';', ' ', '\t']).unwrap_or(after.len());
                    (after[..end].to_owned(), &after[end..])
                }
            };
            rest = after;
            let place = match key.trim().to_ascii_lowercase().as_str() {
                "name" => &mut found.name,
                "filename" => &mut found.filename,
                "filename*" => &mut extended,
                _ => continue,
            };
            if place.replace(text).is_some() {
                return Err("a parameter stands there twice");
            }
        }
        if let Some(text) = extended {
            found.filename = Some(extended_value(&text)?);
        }
        Ok(found)
    }
}

/// What is between the quotes, and what follows them. Browsers write `"` in a name as `%22`; others escape it.
fn unquote(quoted: &str) -> Result<(String, &str), &'static str> {
    let mut text = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((text, &quoted[at + 1..])),
            '\\' => {
                // Some browsers send a backslash as it is: it escapes only what would end the text.
                match quoted[at + 1..].chars().next() {
                    Some(escaped @ ('"' | '\\')) => {
                        text.push(escaped);
                        characters.next();
                    }
                    Some(_) | None => text.push('\\'),
                }
            }
            _ => text.push(character),
        }
    }
    Err("a quoted text has no end")
}

/// `UTF-8'LANGUAGE'PERCENT-ENCODED`.
fn extended_value(text: &str) -> Result<String, &'static str> {
    let (charset, rest) = text.split_once('\'').ok_or("filename* is UTF-8''NAME (RFC 8187)")?;
    let (_, encoded) = rest.split_once('\'').ok_or("filename* is UTF-8''NAME (RFC 8187)")?;
    if !charset.eq_ignore_ascii_case("utf-8") {
        return Err("filename* is in UTF-8");
    }
    let decoded = percent_decode_str(encoded).decode_utf8().map_err(|_| "filename* is not UTF-8")?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_sent() {
        for (value, name, filename) in [
            ("form-data; name=\"file\"; filename=\"a b.csv\"", "file", "a b.csv"),
            ("form-data; name=path", "path", ""),
            ("attachment; filename=a.csv", "", "a.csv"),
            ("attachment; filename=\"x\"; filename*=UTF-8''%C3%BC.csv", "", "ü.csv"),
            ("form-data; name=\"f\"; filename=\"a;b=c\\\"d\\\\e\"", "f", "a;b=c\"d\\e"),
            ("form-data; NAME=\"f\"; x=y; FileName=\"z\"", "f", "z"),
            ("attachment", "", ""),
        ] {
            let read = Disposition::parse(value).unwrap();
            assert_eq!(
                (read.name.unwrap_or_default(), read.filename.unwrap_or_default()),
                (name.into(), filename.into())
            );
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for bad in [
            "form-data; name=\"a\"; name=\"b\"",
            "attachment; filename=\"a",
            "attachment; filename*=a.csv",
            "attachment; filename*=iso-8859-1''%fc",
            "attachment; filename*=UTF-8''%ff",
            "attachment; filename",
        ] {
            assert!(Disposition::parse(bad).is_err(), "{bad}");
        }
    }
}
