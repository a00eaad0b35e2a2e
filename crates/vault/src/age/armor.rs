//! age's ASCII armor: base64 between two lines, to be mailed or printed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const END: &str = "-----END AGE ENCRYPTED FILE-----";
const COLUMNS: usize = 64;

/// Puts a file into armor.
pub fn wrap(file: &[u8]) -> String {
    let text = STANDARD.encode(file);
    let mut armored = format!("{BEGIN}\n");
    // Base64 is ASCII: cutting it anywhere cuts no character.
    for start in (0..text.len()).step_by(COLUMNS) {
        armored.push_str(&text[start..text.len().min(start + COLUMNS)]);
        armored.push('\n');
    }
    armored + END + "\n"
}

/// Takes a file out of its armor. None: it is in none.
pub fn unwrap(text: &str) -> Option<Vec<u8>> {
    let body = text.trim().strip_prefix(BEGIN)?.strip_suffix(END)?;
    let body: String = body.lines().map(str::trim_end).collect();
    STANDARD.decode(body).ok()
}
