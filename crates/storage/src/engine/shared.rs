//! An engine behind an [`Arc`] is an engine: a loop reads and writes it while another thread waits for a flush.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{Caching, Cursor, Direction, Engine, EngineError, EngineStats, Reader};
use crate::WriteOp;
use crate::snapshot::{Spans, Stage};

impl<T: Reader + ?Sized> Reader for Arc<T> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        (**self).get(key)
    }

    fn scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        (**self).scan(range, direction)
    }

    fn try_get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        (**self).try_get(key)
    }

    fn try_scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        (**self).try_scan(range, direction)
    }
}

impl<T: Engine + ?Sized> Engine for Arc<T> {
    fn write(&self, ops: &[WriteOp]) -> Result<(), EngineError> {
        (**self).write(ops)
    }

    fn snapshot(&self) -> Box<dyn Reader + Send + Sync + '_> {
        (**self).snapshot()
    }

    fn freeze(&self, caching: Caching) -> Box<dyn Reader + Send + Sync> {
        (**self).freeze(caching)
    }

    fn stage(&self, spans: &Spans) -> Result<Box<dyn Stage>, EngineError> {
        (**self).stage(spans)
    }

    fn get_persisted(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        (**self).get_persisted(key)
    }

    fn flush(&self) -> Result<(), EngineError> {
        (**self).flush()
    }

    fn stats(&self) -> EngineStats {
        (**self).stats()
    }
}
