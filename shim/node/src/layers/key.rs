//! Makes one EROFS file of one directory.
