/* Inside of template.c and template_format.c: what a recognised chat format consists of. */
#ifndef ENGINE_TEMPLATE_IMPL_H
#define ENGINE_TEMPLATE_IMPL_H

#include "engine/template.h"

enum format_flag {
    FORMAT_FOLD = 1,            /* no system turn: its text goes in front of the user's */
    FORMAT_FOLD_LAST = 2,       /* ... of the last user message rendered, not of the next */
    FORMAT_TRIM = 4,            /* every text loses the white space around it */
    FORMAT_TRIM_ANSWER = 8,     /* answers do, other texts do not */
    FORMAT_LTRIM_ANSWER = 16,   /* answers lose the white space before them */
    FORMAT_DROP_THOUGHT = 32,   /* of answers only what follows </think> is kept */
    FORMAT_THINK_LAST = 64,     /* an answer after the last question shows its (empty) thoughts */
    FORMAT_SYSTEM_ALWAYS = 128, /* a system turn is written even without a system text */
    FORMAT_HEAD_SOURCE = 256,   /* the head of an answer is taken from the template's source */
    FORMAT_EOS_AT_END = 512,    /* a conversation that nobody is to answer ends with eos */
    FORMAT_SYSTEM_FIRST = 1024, /* the system text before all else, without a turn */
    FORMAT_RTRIM_SYSTEM = 2048, /* a system text loses the white space after it */
    FORMAT_TRIM_LINES = 4096,   /* answers lose the line ends before them */
    FORMAT_THINK_EVERY = 8192,  /* every answer shows its (empty) thoughts */
    FORMAT_KEEP_ENDED = 16384,  /* answers after the last question keep their thoughts as written */
    FORMAT_KEEP_LAST = 32768,   /* the last answer does, whatever follows it */
    FORMAT_TRIM_REST = 65536,   /* no white space around what thoughts were dropped from */
};

enum { FORMAT_MARKS = 4 };

/* A control token of answers, by its name in the vocabulary. */
struct format_mark {
    const char *token;
    enum template_mark mark;
};

/* \1 stands for bos, \2 for eos, \3 for the date. Index 0 stands before the text, 1 after it. */
struct format {
    const char *name;
    const char *head;      /* at the beginning of a conversation */
    const char *again;     /* before a user message that is not the first */
    const char *system[2]; /* with FORMAT_FOLD: around the system text inside the user's */
    const char *user[2];
    const char *assistant[2];
    const char *generate; /* makes the model answer; NULL = assistant[0] */
    const char *stop;     /* text at which to stop where no token tells; NULL = none */
    struct format_mark marks[FORMAT_MARKS];
    const char *parts[2];  /* how the names of an answer's parts begin: of its thoughts, of the last one */
    const char *name_lead; /* what stands before such a name, also after the head of an answer; NULL = nothing */
    unsigned flags;
};

struct template
{
    const struct tokenizer *tokenizer; /* may be NULL in tests of the text alone */
    struct format format;
    enum template_reasoning reasoning; /* asked for */
    struct str bos, eos;
    struct str generate;       /* head of an answer */
    struct str system_default; /* system text when none is given, may be empty */
    struct str system_lead;    /* always at the beginning of the system text */
    struct str system_join;    /* between the two */
    struct str system_tail;    /* after a text that the chat gives */
    struct str date;           /* how \3 is written, as for strftime */
    int today[3];              /* year, month, day for it; 0 = the clock's */
    const char *stop_texts[2];
    int32_t mark_ids[FORMAT_MARKS]; /* -1 = not in this vocabulary */
    int32_t stop_id;                /* control token that ends an answer, -1 = none */
    bool unknown;
};

/* Fills format, generate, system_* from the source. False when it is not recognised. */
bool format_recognise(const char *source, size_t len, struct template *tp);

#endif
