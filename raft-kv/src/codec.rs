//! How values become bytes and bytes values: a version byte, then postcard.
//!
//! An enum's tag is the position of its variant, so variants are only ever added at the end. A
//! change that this does not cover takes a new version byte.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::DecodeError;

/// `value` behind its version.
pub(crate) fn encode<T: Serialize>(version: u8, value: &T) -> Bytes {
    encode_onto(vec![version], value).into()
}

/// `value` after what `buffer` already holds.
pub(crate) fn encode_onto<T: Serialize>(buffer: Vec<u8>, value: &T) -> Vec<u8> {
    // A vector takes any number of bytes, and postcard refuses nothing else that we encode: all our
    // sequences know their length.
    postcard::to_extend(value, buffer).expect("encoding into memory does not fail")
}

/// What [`encode`] made, all of it. Safe on any bytes: memory used is in proportion to their
/// number.
pub(crate) fn decode<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Result<T, DecodeError> {
    let (&found, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if found != version {
        return Err(DecodeError::Version { found, supported: version });
    }
    let (value, rest) = postcard::take_from_bytes(rest).map_err(DecodeError::Malformed)?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::Trailing { bytes: rest.len() }) }
}
