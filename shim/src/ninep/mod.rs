//! A 9P2000.L file server for one directory or file, in a process of its own.
