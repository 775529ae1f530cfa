//! Key layout, head records, stamps and versions: where things are in the ordered key space.
