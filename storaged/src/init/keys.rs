//! The root key and the keys of a new store.
//!
//! **Invariant:** neither is overwritten, and the root key is durable before the first key is wrapped with it.

use std::path::PathBuf;

use super::{InitError, InitOptions, give, make_directory, write_new};
use crate::keys::store::KEYS_FILE;
use crate::keys::{Keys, RootKey};
use crate::ledger::StoreId;

/// Readable for whoever runs storaged, writable for nobody.
const ROOT_KEY_MODE: u32 = 0o440;
/// The same where no user is named.
const ROOT_KEY_MODE_ALONE: u32 = 0o400;

/// Where the root key goes: beside the internal key, unless said otherwise.
pub(super) fn root_key_path(options: &InitOptions) -> PathBuf {
    options.root_key_path.clone().unwrap_or_else(|| options.internal_key_path.with_file_name("root.key"))
}

/// Makes the root key's file, the keys in the state directory, and gives them to whoever runs storaged.
pub(super) fn make(options: &InitOptions, store: StoreId) -> Result<Keys, InitError> {
    let root = RootKey::generate()?;
    let path = root_key_path(options);
    if let Some(parent) = path.parent() {
        make_directory(parent, 0o755)?;
    }
    let mode = if options.owner.is_some() { ROOT_KEY_MODE } else { ROOT_KEY_MODE_ALONE };
    write_new(&path, &root.to_text(), mode, options.owner)?;
    let keys = Keys::create(&options.state_dir, store, root)?;
    for file in keys.files().into_iter().flatten() {
        give(&file, options.owner)?;
    }
    Ok(keys)
}

/// What must not be there yet.
pub(super) fn files(options: &InitOptions) -> [PathBuf; 2] {
    [root_key_path(options), options.state_dir.join(KEYS_FILE)]
}
