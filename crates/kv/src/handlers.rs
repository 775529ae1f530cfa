//! Which code each command has.

use dstore_resp::{CommandId, Reply};

use crate::evaluation::{Command, Evaluation, Stop};
use crate::{bits, counters, dump, expiry, keys, lcs, object, random, rename, scan, sort, strings, versions};

/// The code of one command.
pub(crate) type Handler = fn(&mut Evaluation<'_>, Command<'_>) -> Result<Reply, Stop>;

/// The code of a command, if it is one for evaluation.
pub(crate) fn handler(id: CommandId) -> Option<Handler> {
    of_strings(id).or_else(|| of_bits(id)).or_else(|| of_keys(id)).or_else(|| of_walks(id))
}

fn of_strings(id: CommandId) -> Option<Handler> {
    Some(match id {
        CommandId::Get => strings::get,
        CommandId::Set => strings::set,
        CommandId::SetEx => strings::setex,
        CommandId::PSetEx => strings::psetex,
        CommandId::GetEx => strings::getex,
        CommandId::GetDel => strings::getdel,
        CommandId::GetSet => strings::getset,
        CommandId::MGet => strings::mget,
        CommandId::MSet => strings::mset,
        CommandId::MSetNx => strings::msetnx,
        CommandId::SetNx => strings::setnx,
        CommandId::Append => strings::append,
        CommandId::StrLen => strings::strlen,
        CommandId::GetRange | CommandId::SubStr => strings::getrange,
        CommandId::SetRange => strings::setrange,
        CommandId::Lcs => lcs::lcs,
        CommandId::Incr => counters::incr,
        CommandId::Decr => counters::decr,
        CommandId::IncrBy => counters::incrby,
        CommandId::DecrBy => counters::decrby,
        CommandId::IncrByFloat => counters::incrbyfloat,
        _ => return None,
    })
}

fn of_bits(id: CommandId) -> Option<Handler> {
    Some(match id {
        CommandId::SetBit => bits::setbit,
        CommandId::GetBit => bits::getbit,
        CommandId::BitCount => bits::bitcount,
        CommandId::BitPos => bits::bitpos,
        CommandId::BitOp => bits::bitop,
        CommandId::BitField | CommandId::BitFieldRo => bits::bitfield,
        _ => return None,
    })
}

fn of_keys(id: CommandId) -> Option<Handler> {
    Some(match id {
        CommandId::Del | CommandId::Unlink => keys::del,
        CommandId::Exists | CommandId::Touch => keys::exists,
        CommandId::Type => keys::type_of,
        CommandId::Rename => rename::rename,
        CommandId::RenameNx => rename::renamenx,
        CommandId::Copy => rename::copy,
        CommandId::Move => rename::move_to,
        CommandId::Expire => expiry::expire,
        CommandId::PExpire => expiry::pexpire,
        CommandId::ExpireAt => expiry::expireat,
        CommandId::PExpireAt => expiry::pexpireat,
        CommandId::Ttl => expiry::ttl,
        CommandId::PTtl => expiry::pttl,
        CommandId::ExpireTime => expiry::expiretime,
        CommandId::PExpireTime => expiry::pexpiretime,
        CommandId::Persist => expiry::persist,
        CommandId::ObjectEncoding => object::encoding,
        CommandId::ObjectFreq => object::freq,
        CommandId::ObjectHelp => object::help_text,
        CommandId::ObjectIdleTime => object::idletime,
        CommandId::ObjectRefCount => object::refcount,
        CommandId::MemoryUsage => object::memory_usage,
        CommandId::Sort | CommandId::SortRo => sort::sort,
        CommandId::Dump => dump::dump,
        CommandId::Restore => dump::restore,
        CommandId::KvVersion => versions::version,
        CommandId::KvCas => versions::cas,
        _ => return None,
    })
}

fn of_walks(id: CommandId) -> Option<Handler> {
    Some(match id {
        CommandId::DbSize => keys::dbsize,
        CommandId::FlushDb => keys::flushdb,
        CommandId::FlushAll => keys::flushall,
        CommandId::RandomKey => random::randomkey,
        CommandId::Scan => scan::scan,
        CommandId::Keys => scan::keys,
        CommandId::KvRange => scan::range,
        _ => return None,
    })
}
