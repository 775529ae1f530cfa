//! What commands mean: a pure function from a command and a view of the data to a reply and effects.
