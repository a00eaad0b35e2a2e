//! The root key and the keys of a new store.
//!
//! **Invariant:** neither is overwritten, and the root key is durable before the first key is wrapped with it.

use std::path::PathBuf;

use super::{CONFIG_MODE, InitError, InitOptions, give, make_directory, write_new};
use crate::keys::recovery::{self, Recipients};
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

/// What is made so that a lost root key comes back.
#[derive(Debug, Clone, Default)]
pub struct RecoveryOptions {
    /// To whom the root key is encrypted: `age1…`.
    pub recipients: Vec<String>,
    /// The file of one of them, to prove that it decrypts.
    pub prove_with: Option<PathBuf>,
}

/// The encrypted root key.
#[derive(Debug)]
pub struct RecoveryFile {
    /// Where it is. It belongs on another machine, and on paper.
    pub path: PathBuf,
    /// How many can open it.
    pub recipients: usize,
    /// Whether one of them has just done so.
    pub proven: bool,
}

/// Understands what is needed before anything is made.
pub(super) fn recipients(options: &InitOptions) -> Result<Option<Recipients>, InitError> {
    let recipients = Recipients::parse(&options.recovery.recipients)?;
    if recipients.is_none() && options.recovery.prove_with.is_some() {
        return Err(InitError::Options("a recovery to prove needs a recovery recipient".into()));
    }
    Ok(recipients)
}

/// Makes the root key's file, the keys in the state directory, and gives them to whoever runs storaged.
pub(super) fn make(
    options: &InitOptions,
    store: StoreId,
    recipients: Option<&Recipients>,
) -> Result<(Keys, Option<RecoveryFile>), InitError> {
    let root = RootKey::generate()?;
    let path = root_key_path(options);
    if let Some(parent) = path.parent() {
        make_directory(parent, 0o755)?;
    }
    let mode = if options.owner.is_some() { ROOT_KEY_MODE } else { ROOT_KEY_MODE_ALONE };
    write_new(&path, &root.to_text(), mode, options.owner)?;
    let recovery = recipients.map(|recipients| wrap(options, &root, recipients)).transpose()?;
    let keys = Keys::create(&options.state_dir, store, root)?;
    for file in keys.files().into_iter().flatten() {
        give(&file, options.owner)?;
    }
    Ok((keys, recovery))
}

fn wrap(options: &InitOptions, root: &RootKey, recipients: &Recipients) -> Result<RecoveryFile, InitError> {
    let path = recovery_path(options);
    if let Some(parent) = path.parent() {
        make_directory(parent, 0o755)?;
    }
    write_new(&path, &recipients.wrap(root)?, CONFIG_MODE, options.owner)?;
    let proven = match &options.recovery.prove_with {
        Some(identity) => recovery::prove(root, &path, identity).map(|()| true)?,
        None => false,
    };
    Ok(RecoveryFile { path, recipients: recipients.count(), proven })
}

/// Beside the configuration.
fn recovery_path(options: &InitOptions) -> PathBuf {
    options.config_path.with_file_name("root-key.age")
}

/// What must not be there yet.
pub(super) fn files(options: &InitOptions) -> [PathBuf; 3] {
    [root_key_path(options), recovery_path(options), options.state_dir.join(KEYS_FILE)]
}
