-- A conversation as one file. application_id "DgEx", user_version 1.

CREATE TABLE conversation (
    title      TEXT NOT NULL,
    model      TEXT NOT NULL,
    created_ms INTEGER NOT NULL, -- Unix milliseconds
    updated_ms INTEGER NOT NULL,
    pinned     INTEGER NOT NULL,
    leaf       INTEGER NOT NULL -- message at the end of the open branch; 0 = none
) STRICT;

CREATE TABLE message (
    id         INTEGER PRIMARY KEY, -- 1, 2, ...; parents before children
    parent     INTEGER NOT NULL,    -- 0 = first
    created_ms INTEGER NOT NULL,
    done       INTEGER NOT NULL,
    role       TEXT NOT NULL,
    stop       TEXT NOT NULL,
    text       TEXT NOT NULL,
    ids        BLOB,            -- int32 little-endian
    vocab      INTEGER NOT NULL -- as in schema.sql
) STRICT;

-- KV, named as in kv_schema.sql; absent when exported without.
CREATE TABLE kv (
    fingerprint INTEGER NOT NULL,
    hash        INTEGER NOT NULL,
    n_tok       INTEGER NOT NULL,
    layer       INTEGER NOT NULL,
    head_group  INTEGER NOT NULL,
    plane       INTEGER NOT NULL,
    raw         INTEGER NOT NULL,
    codec       INTEGER NOT NULL,
    sum         BLOB NOT NULL,
    data        BLOB NOT NULL
) STRICT;
CREATE INDEX kv_block ON kv (fingerprint, n_tok, hash);
