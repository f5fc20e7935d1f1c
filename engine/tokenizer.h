/* The vocabulary of one model: text to token ids and back.
 *
 * Owns a copy of every token's text and the tables for encoding; does not keep the GGUF file.
 * Two families: SentencePiece BPE (tok_spm.c, Gemma 4's too) and byte-level BPE (tok_bpe.c).
 * Threads: immutable after opening; every function may be called from any thread at once.
 * Text is any bytes, length-delimited; invalid UTF-8 is encoded byte by byte and decodes to the
 * same bytes. Errors: enum status + struct err. */
#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/base/str.h"

struct gguf;
struct tokenizer;

/* ERR_FORMAT for a damaged vocabulary, ERR_UNSUPPORTED for a kind we do not do. */
enum status tokenizer_open(const struct gguf *g, struct tokenizer **ret, struct err *e);
void tokenizer_free(struct tokenizer *t); /* NULL is fine */

/* ---- what it holds ---- */
int32_t tokenizer_n_vocab(const struct tokenizer *t);

/* -1 = the model has none. eot ends a turn (<|im_end|>, <|eot_id|>, ...), eos the text. */
struct tokenizer_ids {
    int32_t bos, eos, eot, unk;
    bool add_bos, add_eos;
};
const struct tokenizer_ids *tokenizer_special(const struct tokenizer *t); /* borrowed */

/* Whether generation must stop at this token (eos, eot, and the other ends known by name). */
bool tokenizer_is_end(const struct tokenizer *t, int32_t id);
/* Control and unknown tokens: never made from plain text, left out of decoded text. */
bool tokenizer_is_control(const struct tokenizer *t, int32_t id);

/* Id of the token whose text in the vocabulary is exactly s[0..n); -1 when there is none. */
int32_t tokenizer_find(const struct tokenizer *t, const char *s, size_t n);

/* Raw bytes the token stands for, borrowed for the tokenizer's lifetime (control tokens: their
 * text). An id outside the vocabulary gives NULL and length 0. May end inside a code point: use
 * detok.h to show text as it grows. */
const char *tokenizer_piece(const struct tokenizer *t, int32_t id, size_t *ret_len);

/* ---- encoding ---- */
/* Growable list of ids, caller's storage; zero-initialise. */
struct tok_list {
    int32_t *ids;
    int32_t n, cap;
};
void tok_list_add(struct tok_list *l, int32_t id);
void tok_list_fini(struct tok_list *l);

/* Bytes [begin, end) of a text in which the names of control tokens mean those tokens. */
struct tok_range {
    size_t begin, end;
};

/* Appends the ids of s[0..n) to *out. Names of control tokens become those tokens only where they
 * lie wholly inside one of the ranges (ascending, not overlapping); everywhere else they are plain
 * text. Text is split nowhere but at such tokens, so what stands on both sides of a range's border
 * may merge as in the reference implementations. bos: put the bos token first where the model wants
 * one (add_bos) and the text does not begin with it by itself. before: the token that the text
 * follows, -1 = none (SentencePiece puts a space before a text that nothing precedes). */
enum status tokenizer_encode_ranges(const struct tokenizer *t, const char *s, size_t n,
                                    const struct tok_range *ranges, size_t n_range, bool bos,
                                    int32_t before, struct tok_list *out, struct err *e);
/* A text of its own: the whole of it is one range when parse_special is true, none otherwise. With
 * bos, the eos token is put at the end where the model wants one (add_eos). */
enum status tokenizer_encode(const struct tokenizer *t, const char *s, size_t n, bool parse_special,
                             bool bos, struct tok_list *out, struct err *e);

/* ---- decoding ---- */
/* Appends the raw bytes of n ids. Control tokens are written as their text when special is true,
 * else left out. The space that SentencePiece puts before a text is taken off again when `start`
 * says that the ids begin the text. Unknown ids are skipped. */
void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, int32_t n, bool special,
                      bool start, struct str *out);

/* Hash of all token texts, types and scores: part of the model's fingerprint. */
uint64_t tokenizer_hash(const struct tokenizer *t);

#endif
