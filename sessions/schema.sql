-- dogear.db: what cannot be made again. Times are Unix milliseconds. Version: PRAGMA user_version
-- (migrate.c); PRAGMA application_id marks the file as ours. KV lives in the other file.

CREATE TABLE conversation (
    id         INTEGER PRIMARY KEY AUTOINCREMENT, -- never reused: KV rows name it
    tree       INTEGER NOT NULL, -- the first conversation of a family of forks; equal = may share rows
    base       INTEGER,          -- the shared message a fork starts after; NULL = no fork
    leaf       INTEGER,          -- last message of the open branch; NULL = the path is empty
    pinned     INTEGER NOT NULL DEFAULT 0, -- 1 = its KV is never thinned for the budget
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL, -- last message added or finished
    model      TEXT NOT NULL DEFAULT '', -- name of the model last used
    title      TEXT NOT NULL DEFAULT ''  -- '' = untitled
) STRICT;
CREATE INDEX conversation_updated ON conversation (updated_ms);
CREATE INDEX conversation_tree ON conversation (tree);

-- One row per message of every branch. A child's id is greater than its parent's, so walking up
-- always ends. A conversation sees the rows whose home it is and the ancestors of its base.
CREATE TABLE message (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    parent     INTEGER REFERENCES message (id), -- NULL = first message
    home       INTEGER NOT NULL, -- the conversation it was written in
    created_ms INTEGER NOT NULL,
    n_id       INTEGER NOT NULL DEFAULT 0, -- tokens in ids
    done       INTEGER NOT NULL DEFAULT 1, -- 0 = an answer still streaming, or cut by a crash
    indexed    INTEGER NOT NULL DEFAULT 1, -- 1 = message_fts holds this text
    role       TEXT NOT NULL,              -- 'system', 'user', 'assistant'
    stop       TEXT NOT NULL DEFAULT '',   -- why an answer ended: 'eos', 'length', 'context', 'cancel', 'failed'
    text       TEXT NOT NULL,
    ids        BLOB, -- int32 little-endian, exactly as fed; NULL while unknown
    vocab      INTEGER NOT NULL DEFAULT 0 -- whose ids they are (sessions_set_vocab); 0 = not recorded
) STRICT;
CREATE INDEX message_parent ON message (parent, home);
CREATE INDEX message_home ON message (home);
CREATE INDEX message_unindexed ON message (id) WHERE indexed = 0;

-- What a turn measured.
CREATE TABLE turn (
    message INTEGER PRIMARY KEY REFERENCES message (id) ON DELETE CASCADE, -- the answer
    at_ms   INTEGER NOT NULL, -- when it was measured
    figures TEXT NOT NULL,    -- one JSON object, as /stats writes it
    choices BLOB              -- what the model said of each token of the answer; NULL = unknown
) STRICT;

CREATE TABLE setting (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Search. External content: the text is stored once, the triggers keep the index in step.
CREATE VIRTUAL TABLE message_fts USING fts5 (text, content = 'message', content_rowid = 'id',
    tokenize = 'unicode61 remove_diacritics 2');
CREATE VIRTUAL TABLE title_fts USING fts5 (title, content = 'conversation', content_rowid = 'id',
    tokenize = 'unicode61 remove_diacritics 2');

CREATE TRIGGER message_insert AFTER INSERT ON message WHEN new.indexed BEGIN
    INSERT INTO message_fts (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER message_delete AFTER DELETE ON message WHEN old.indexed BEGIN
    INSERT INTO message_fts (message_fts, rowid, text) VALUES ('delete', old.id, old.text);
END;
CREATE TRIGGER message_unindex AFTER UPDATE OF text, indexed ON message WHEN old.indexed BEGIN
    INSERT INTO message_fts (message_fts, rowid, text) VALUES ('delete', old.id, old.text);
    INSERT INTO message_fts (rowid, text) SELECT new.id, new.text WHERE new.indexed;
END;
CREATE TRIGGER message_index AFTER UPDATE OF text, indexed ON message
    WHEN new.indexed AND NOT old.indexed BEGIN
    INSERT INTO message_fts (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER title_insert AFTER INSERT ON conversation BEGIN
    INSERT INTO title_fts (rowid, title) VALUES (new.id, new.title);
END;
CREATE TRIGGER title_delete AFTER DELETE ON conversation BEGIN
    INSERT INTO title_fts (title_fts, rowid, title) VALUES ('delete', old.id, old.title);
END;
CREATE TRIGGER title_update AFTER UPDATE OF title ON conversation BEGIN
    INSERT INTO title_fts (title_fts, rowid, title) VALUES ('delete', old.id, old.title);
    INSERT INTO title_fts (rowid, title) VALUES (new.id, new.title);
END;
