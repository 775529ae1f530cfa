//! The three bit sets of the command table: command flags, access categories and key flags, each with the names that
//! `COMMAND INFO` prints, in the order in which Redis prints them.

/// Declares a bit set whose bits have names; the order of declaration is the order of printing.
macro_rules! bit_set {
    ($(#[$doc:meta])* $type:ident { $($(#[$bit_doc:meta])* $bit:ident = $name:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct $type(u32);

        impl $type {
            bit_set!(@bits $type 0; $($(#[$bit_doc])* $bit,)*);

            /// No bit set.
            pub const NONE: $type = $type(0);

            const NAMES: &'static [&'static str] = &[$($name),*];

            /// Both sets together.
            pub const fn with(self, other: $type) -> $type {
                $type(self.0 | other.0)
            }

            /// Whether every bit of `other` is set.
            pub const fn has(self, other: $type) -> bool {
                self.0 & other.0 == other.0
            }

            /// Redis's names of the bits that are set, in its order.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                Self::NAMES.iter().enumerate().filter(move |(bit, _)| self.0 & (1 << bit) != 0).map(|(_, name)| *name)
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_list().entries(self.names()).finish()
            }
        }
    };
    (@bits $type:ident $n:expr; $(#[$bit_doc:meta])* $bit:ident, $($rest:tt)*) => {
        $(#[$bit_doc])*
        pub const $bit: $type = $type(1 << ($n));
        bit_set!(@bits $type $n + 1; $($rest)*);
    };
    (@bits $type:ident $n:expr;) => {};
}

bit_set! {
    /// What a command does and where it may run, as Redis names it.
    CommandFlags {
        /// May change data.
        WRITE = "write",
        /// Reads data and changes none.
        READONLY = "readonly",
        /// May make data grow: refused when space runs out.
        DENYOOM = "denyoom",
        /// For operators.
        ADMIN = "admin",
        /// Not from scripts.
        NOSCRIPT = "noscript",
        /// May wait for something.
        BLOCKING = "blocking",
        /// Allowed while data is still being loaded.
        LOADING = "loading",
        /// Allowed on a node whose data may be stale.
        STALE = "stale",
        /// Not shown by MONITOR.
        SKIP_MONITOR = "skip_monitor",
        /// Not recorded in the slow log.
        SKIP_SLOWLOG = "skip_slowlog",
        /// Constant or logarithmic time.
        FAST = "fast",
        /// Allowed before the connection has authenticated.
        NO_AUTH = "no_auth",
        /// Its keys are optional.
        NO_MANDATORY_KEYS = "no_mandatory_keys",
        /// Not inside MULTI.
        NO_MULTI = "no_multi",
        /// Where its keys stand depends on its arguments.
        MOVABLE_KEYS = "movablekeys",
        /// Allowed while a script keeps the server busy.
        ALLOW_BUSY = "allow_busy",
    }
}

bit_set! {
    /// Access-control categories. `read`, `write`, `admin`, `fast`, `slow`, `blocking` and `dangerous` follow from the
    /// [`CommandFlags`]; the others are given in the table.
    Categories {
        /// Deals with keys, whatever their type.
        KEYSPACE = "@keyspace",
        /// Reads data.
        READ = "@read",
        /// Changes data.
        WRITE = "@write",
        /// Deals with sets.
        SET = "@set",
        /// Deals with sorted sets.
        SORTEDSET = "@sortedset",
        /// Deals with lists.
        LIST = "@list",
        /// Deals with strings.
        STRING = "@string",
        /// Deals with strings as bits.
        BITMAP = "@bitmap",
        /// For operators.
        ADMIN = "@admin",
        /// Constant or logarithmic time.
        FAST = "@fast",
        /// Not fast.
        SLOW = "@slow",
        /// May wait for something.
        BLOCKING = "@blocking",
        /// Can harm data or service.
        DANGEROUS = "@dangerous",
        /// Deals with the connection itself.
        CONNECTION = "@connection",
        /// Part of MULTI/EXEC.
        TRANSACTION = "@transaction",
    }
}

bit_set! {
    /// What a command does to a key.
    KeyFlags {
        /// Reads the key.
        RO = "RO",
        /// Reads and changes the key.
        RW = "RW",
        /// Overwrites the key without looking at it.
        OW = "OW",
        /// Removes the key.
        RM = "RM",
        /// Tells the client something of the value.
        ACCESS = "access",
        /// Changes the value.
        UPDATE = "update",
        /// Adds to the value, never removes.
        INSERT = "insert",
        /// Deletes the value.
        DELETE = "delete",
        /// The flags depend on the other arguments.
        VARIABLE_FLAGS = "variable_flags",
    }
}
