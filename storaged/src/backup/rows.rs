//! The rows of a table, for a backup.
//!
//! **Invariant:** rows come in the order of their keys, and keys and values leave as bytes that say the same on any machine.

use redb::{Key, ReadTransaction, ReadableTable as _, StorageError, TableDefinition, TableError, Value};

/// Takes the rows of a table one by one.
pub(crate) type Each<'a, E> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<(), E>;

/// Every row of a table; `key` writes its key.
pub(crate) fn of_table<D, K, V, E>(
    transaction: &ReadTransaction,
    table: TableDefinition<'_, K, V>,
    key: impl Fn(K::SelfType<'_>, &mut Vec<u8>),
    each: Each<'_, E>,
) -> Result<(), E>
where
    D: From<TableError> + From<StorageError>,
    K: Key + 'static,
    V: Value + 'static,
    E: From<D>,
{
    let table = transaction.open_table(table).map_err(D::from)?;
    let mut bytes = Vec::new();
    for row in table.iter().map_err(D::from)? {
        let (row_key, value) = row.map_err(D::from)?;
        bytes.clear();
        key(row_key.value(), &mut bytes);
        each(&bytes, V::as_bytes(&value.value()).as_ref())?;
    }
    Ok(())
}
