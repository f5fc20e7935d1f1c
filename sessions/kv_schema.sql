-- dogear-kv.db: what can be made again by reading the token logs of dogear.db. 8 KiB database pages,
-- incremental auto-vacuum (set before this script). Never migrated: an older user_version = made anew.

-- Who uses what. A conversation that is gone from dogear.db is removed from here, too.
CREATE TABLE chat (
    id      INTEGER PRIMARY KEY, -- conversation in dogear.db
    depth   INTEGER NOT NULL DEFAULT 0, -- tier it was thinned to (engine/stats.h); 0 = not thinned
    used_ms INTEGER NOT NULL            -- last read or written
) STRICT;

-- 64 tokens of some token log with everything before them, or what is kept of the point after n_tok.
CREATE TABLE block (
    id          INTEGER PRIMARY KEY,
    fingerprint INTEGER NOT NULL, -- model, positions, page format: engine_info.fingerprint
    hash        INTEGER NOT NULL, -- kv_io_hash of the first n_tok ids
    n_tok       INTEGER NOT NULL,
    state       INTEGER NOT NULL, -- enum kv_io_kind: 0 = pages of the block that ends at n_tok, 1 = rows, 2 = states
    -- bytes of the pages in each tier, and of rows and states; kept in step with piece
    t0 INTEGER NOT NULL DEFAULT 0, t1 INTEGER NOT NULL DEFAULT 0, t2 INTEGER NOT NULL DEFAULT 0,
    t3 INTEGER NOT NULL DEFAULT 0, t4 INTEGER NOT NULL DEFAULT 0, t5 INTEGER NOT NULL DEFAULT 0,
    t6 INTEGER NOT NULL DEFAULT 0, t7 INTEGER NOT NULL DEFAULT 0, -- t7: rows, states
    UNIQUE (hash, fingerprint, n_tok, state)
) STRICT;
CREATE INDEX block_state ON block (fingerprint, n_tok) WHERE state = 1;
-- block_states, likewise of state = 2: kvstore.c

CREATE TABLE ref (
    chat  INTEGER NOT NULL,
    block INTEGER NOT NULL,
    PRIMARY KEY (chat, block)
) STRICT, WITHOUT ROWID;
CREATE INDEX ref_block ON ref (block);

CREATE TABLE piece (
    block      INTEGER NOT NULL,
    layer      INTEGER NOT NULL,
    head_group INTEGER NOT NULL,
    plane      INTEGER NOT NULL, -- engine/base/kv_io.h
    first      INTEGER NOT NULL, -- its bytes: rows first, first + 1, ... of the plane's chunk table
    n_chunk    INTEGER NOT NULL, -- so many rows
    raw        INTEGER NOT NULL, -- bytes as the engine gave them
    stored     INTEGER NOT NULL, -- bytes in the chunks
    codec      INTEGER NOT NULL, -- 0 = as they are, 1 = zstd
    sum        BLOB NOT NULL,    -- XXH3-128 of the raw bytes, seeded with everything that names them
    PRIMARY KEY (block, layer, head_group, plane)
) STRICT, WITHOUT ROWID;

-- A table per plane: dropping a plane of an old chat then frees whole database pages. A piece is cut
-- where a database page ends, because rows of odd sizes would leave much of each page empty (rows
-- and states: one row, see kvwrite.c).
CREATE TABLE chunk_0 (id INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE chunk_1 (id INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE chunk_2 (id INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE chunk_3 (id INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE chunk_4 (id INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE chunk_5 (id INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE chunk_6 (id INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE chunk_state (id INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
