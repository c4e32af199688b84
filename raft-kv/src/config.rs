//! What can be set on the store.

use serde::{Deserialize, Serialize};

use crate::error::KvError;

/// Limits and sizes of the store on one node. Nothing here changes what a command does, so nodes
/// may differ (rule C1); the limits are checked before a command is proposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KvConfig {
    /// The longest key that is taken, in bytes. At most 64 KiB.
    pub max_key_bytes: usize,
    /// The longest value that is taken, in bytes. At most 16 MiB. A log entry must hold key and
    /// value.
    pub max_value_bytes: usize,
    /// The most key-value bytes one answer to a range carries. A range that has more is cut there
    /// and says so. One key is always answered. The channel must carry as much, and a value of the
    /// greatest length.
    pub max_reply_bytes: usize,
    /// Memory for what was written and is not yet in files, in bytes. It is also about what has to
    /// be applied again after a crash.
    pub write_buffer_bytes: usize,
    /// Memory for keys and values that were written or read last, in bytes.
    pub row_cache_bytes: usize,
    /// Memory for blocks of files, their indexes and filters, in bytes.
    pub block_cache_bytes: usize,
    /// How many bytes keys and values may take here with their history, as the store counts them: before
    /// compression, with a few bytes for each. Beyond, puts are refused (deletes are not). `None` for no
    /// limit.
    pub quota_bytes: Option<u64>,
    /// From so many bytes on there is an alarm. `None` for four fifths of the quota.
    pub quota_warning_bytes: Option<u64>,
    /// Puts are also refused while the file system of the store has fewer bytes to spare, and there is an
    /// alarm while it has less than twice as many: what makes room needs some itself.
    pub min_free_bytes: u64,
    /// How many watches may be under way at once. Each may hold 256 KiB of events that wait, all of them
    /// together 64 MiB.
    pub max_watches: usize,
    /// How many files may be open at once.
    pub max_open_files: u16,
    /// Threads of RocksDB that flush and compact.
    pub background_jobs: u8,
}

impl Default for KvConfig {
    fn default() -> Self {
        Self {
            max_key_bytes: 4 << 10,
            max_value_bytes: 1 << 20,
            max_reply_bytes: 4 << 20,
            write_buffer_bytes: 64 << 20,
            row_cache_bytes: 48 << 20,
            block_cache_bytes: 48 << 20,
            quota_bytes: None,
            quota_warning_bytes: None,
            min_free_bytes: 64 << 20,
            max_watches: 100_000,
            max_open_files: 512,
            background_jobs: 2,
        }
    }
}

impl KvConfig {
    /// From how many bytes on there is an alarm.
    pub(crate) fn warning_bytes(&self) -> Option<u64> {
        self.quota_warning_bytes.or_else(|| self.quota_bytes.map(|quota| quota / 5 * 4))
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    ///
    /// [`KvError::Config`] names the first value that does not.
    pub fn check(&self) -> Result<(), KvError> {
        let within = |name: &str, value: usize, least: usize, most: usize| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(KvError::Config(format!("{name} is {value}; use {least} to {most}")))
        };
        within("max_key_bytes", self.max_key_bytes, 1, 64 << 10)?;
        within("max_value_bytes", self.max_value_bytes, 1, 16 << 20)?;
        within("max_reply_bytes", self.max_reply_bytes, 1 << 10, 64 << 20)?;
        within("write_buffer_bytes", self.write_buffer_bytes, 1 << 20, 4 << 30)?;
        within("row_cache_bytes", self.row_cache_bytes, 0, 64 << 30)?;
        within("block_cache_bytes", self.block_cache_bytes, 1 << 20, 64 << 30)?;
        if let (Some(warning), Some(quota)) = (self.quota_warning_bytes, self.quota_bytes)
            && warning > quota
        {
            let what =
                format!("quota_warning_bytes is {warning}, over quota_bytes, which is {quota}");
            return Err(KvError::Config(format!("{what}; use less")));
        }
        within("max_watches", self.max_watches, 0, 10_000_000)?;
        within("max_open_files", self.max_open_files.into(), 32, 65_535)?;
        within("background_jobs", self.background_jobs.into(), 1, 64)
    }
}
