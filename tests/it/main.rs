//! Tests of the whole server, one module for each topic.
