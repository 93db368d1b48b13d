#include "daemon/keys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUFFIX ".pub"

struct keys {
    uint32_t n;
    struct key key[]; /* by public key */
};

/* The files that count. Others (an editor's copies, NAME.pub.revoked) are passed over. */
static bool is_key_file(const char *file)
{
    size_t n = strlen(file), suffix = sizeof(SUFFIX) - 1;
    return n > suffix && file[0] != '.' && strcmp(file + n - suffix, SUFFIX) == 0;
}

static int filter(const struct dirent *entry)
{
    return is_key_file(entry->d_name);
}

static bool role_is(const char *role, size_t n, const char *name)
{
    return strlen(name) == n && memcmp(role, name, n) == 0;
}

/* The words behind "push", into key->prefixes, which has room. */
static int add_prefixes(struct key *key, size_t *used, char *words, const char *path,
                        char errmsg[SEISMO_ERRMSG])
{
    uint32_t before = key->n_prefixes;
    char *word;
    while ((word = strsep(&words, " \t"))) {
        size_t n = strlen(word);
        if (n == 0)
            continue;
        if (key->n_prefixes == KEY_MAX_PREFIX) {
            snprintf(errmsg, SEISMO_ERRMSG, "%.150s: more than %d prefixes", path, KEY_MAX_PREFIX);
            return SEISMO_ECONFIG;
        }
        n -= word[n - 1] == '*'; /* a star at the end says the same as none */
        memcpy(key->prefixes + *used, word, n);
        key->prefixes[*used + n] = '\0';
        *used += n + 1;
        key->n_prefixes++;
    }
    if (key->n_prefixes > before)
        return 0;
    snprintf(errmsg, SEISMO_ERRMSG,
             "%.120s: push needs the beginnings of the names that may be pushed: push PREFIX, or "
             "push * for every run",
             path);
    return SEISMO_ECONFIG;
}

static int parse_roles(struct key *key, const char *roles, const char *path,
                       char errmsg[SEISMO_ERRMSG])
{
    char *copy = strdup(roles), *rest = copy, *role;
    size_t used = 0;
    int err = 0;
    key->prefixes = malloc(strlen(roles) + 1); /* a prefix and its separator take no more */
    if (!copy || !key->prefixes) {
        free(copy);
        snprintf(errmsg, SEISMO_ERRMSG, "no memory for the keys");
        return SEISMO_ENOMEM;
    }
    while (err == 0 && (role = strsep(&rest, ","))) {
        role += strspn(role, " \t");
        size_t n = strcspn(role, " \t"), blanks = strspn(role + n, " \t");
        bool alone = role[n + blanks] == '\0';
        if (role_is(role, n, "push")) {
            err = add_prefixes(key, &used, role + n, path, errmsg);
        } else if (role_is(role, n, "query") && alone) {
            key->query = true;
        } else if (role_is(role, n, "admin") && alone) {
            key->admin = true;
        } else {
            snprintf(errmsg, SEISMO_ERRMSG,
                     "%.120s: the roles must be some of `push PREFIX …`, `query` and `admin`, with "
                     "commas between them",
                     path);
            err = SEISMO_ECONFIG;
        }
    }
    free(copy);
    return err;
}

static int read_key(const char *dir, const char *file, struct key *key, char errmsg[SEISMO_ERRMSG])
{
    char *path;
    struct keyfile content;
    size_t n = strlen(file) - (sizeof(SUFFIX) - 1);
    if (asprintf(&path, "%s/%s", dir, file) < 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "no memory for the keys");
        return SEISMO_ENOMEM;
    }
    int err;
    if (n >= sizeof(key->name) ||
        strspn(file, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.@-") !=
            strlen(file)) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "a key file in %.120s has a bad name; a client's name has up to %d letters, "
                 "digits and _ . @ -",
                 dir, KEY_NAME - 1);
        err = SEISMO_ECONFIG;
    } else if ((err = keyfile_read(path, KEYFILE_PUBLIC, &content, errmsg)) == 0) {
        memcpy(key->name, file, n);
        memcpy(key->public_key, content.key, sizeof(key->public_key));
        if (content.roles[0]) {
            err = parse_roles(key, content.roles, path, errmsg);
        } else {
            snprintf(errmsg, SEISMO_ERRMSG,
                     "%.120s gives no roles; add a line such as `roles = push PREFIX, query`",
                     path);
            err = SEISMO_ECONFIG;
        }
    }
    free(path);
    if (err != 0) {
        free(key->prefixes);
        *key = (struct key){0};
    }
    return err;
}

static int by_public_key(const void *a, const void *b)
{
    return strcmp(((const struct key *)a)->public_key, ((const struct key *)b)->public_key);
}

/* Only who may change the daemon's configuration may say who comes in. */
static int check_dir(const char *dir, char errmsg[SEISMO_ERRMSG])
{
    struct stat st;
    if (stat(dir, &st) != 0) {
        snprintf(errmsg, SEISMO_ERRMSG, "cannot read the directory of clients %.140s: %s", dir,
                 strerror(errno));
        return errno == ENOENT || errno == ENOTDIR ? SEISMO_ENOTFOUND : SEISMO_EIO;
    }
    if (S_ISDIR(st.st_mode) && !(st.st_mode & 0002))
        return 0;
    snprintf(errmsg, SEISMO_ERRMSG, "the directory of clients %.140s %s", dir,
             S_ISDIR(st.st_mode) ? "can be written by everybody: chmod o-w it"
                                 : "is not a directory");
    return SEISMO_ECONFIG;
}

/* Two clients of one key would be the same client with two sets of roles: neither gets in. */
static int drop_doubles(struct keys *k, void (*complain)(void *arg, const char *why), void *arg,
                        char errmsg[SEISMO_ERRMSG])
{
    uint32_t kept = 0;
    for (uint32_t i = 0, next; i < k->n; i = next) {
        next = i + 1;
        while (next < k->n && by_public_key(&k->key[i], &k->key[next]) == 0)
            next++;
        if (next == i + 1) {
            k->key[kept++] = k->key[i];
            continue;
        }
        char why[SEISMO_ERRMSG];
        snprintf(why, sizeof(why),
                 "the clients \"%s\" and \"%s\" have the same key; give each one of its own",
                 k->key[i].name, k->key[i + 1].name);
        if (!complain) { /* nothing has been dropped or moved before */
            memcpy(errmsg, why, sizeof(why));
            return SEISMO_ECONFIG;
        }
        complain(arg, why);
        for (uint32_t j = i; j < next; j++)
            free(k->key[j].prefixes);
    }
    k->n = kept;
    return 0;
}

int keys_load(const char *dir, void (*complain)(void *arg, const char *why), void *arg,
              struct keys **ret_keys, char errmsg[SEISMO_ERRMSG])
{
    struct dirent **file = NULL;
    int err = check_dir(dir, errmsg), n = 0;
    if (err == 0 && (n = scandir(dir, &file, filter, alphasort)) < 0) {
        err = errno == ENOMEM || errno == EMFILE || errno == ENFILE ? SEISMO_ENOMEM : SEISMO_EIO;
        snprintf(errmsg, SEISMO_ERRMSG, "cannot read the directory of clients %.140s: %s", dir,
                 strerror(errno));
        n = 0;
    }
    if (err != 0 && (!complain || err == SEISMO_ENOMEM))
        return err;
    if (err != 0)
        complain(arg, errmsg);
    err = 0;
    struct keys *k = calloc(1, sizeof(*k) + (size_t)n * sizeof(k->key[0]));
    if (!k) {
        snprintf(errmsg, SEISMO_ERRMSG, "no memory for the keys");
        err = SEISMO_ENOMEM;
    } else if (n > KEYS_MAX) {
        snprintf(errmsg, SEISMO_ERRMSG, "%.140s holds more than %d keys", dir, KEYS_MAX);
        if (complain)
            complain(arg, errmsg);
        else
            err = SEISMO_ECONFIG;
    }
    for (int i = 0; err == 0 && i < n && i < KEYS_MAX; i++) {
        char why[SEISMO_ERRMSG];
        int rc = read_key(dir, file[i]->d_name, &k->key[k->n], why);
        k->n += rc == 0;
        if (rc == SEISMO_ENOMEM || (rc != 0 && !complain)) {
            memcpy(errmsg, why, sizeof(why));
            err = rc == SEISMO_ENOMEM ? rc : SEISMO_ECONFIG;
        } else if (rc != 0) {
            complain(arg, why);
        }
    }
    for (int i = 0; i < n; i++)
        free(file[i]);
    free(file);
    if (err == 0) {
        qsort(k->key, k->n, sizeof(k->key[0]), by_public_key);
        err = drop_doubles(k, complain, arg, errmsg);
    }
    if (err != 0) {
        keys_free(&k);
        return err;
    }
    *ret_keys = k;
    return 0;
}

void keys_free(struct keys **ref)
{
    struct keys *k = *ref;
    if (!k)
        return;
    *ref = NULL;
    for (uint32_t i = 0; i < k->n; i++)
        free(k->key[i].prefixes);
    free(k);
}

const struct key *keys_find(const struct keys *k, const char *public_key)
{
    struct key wanted;
    if (strlen(public_key) != KEY_TEXT - 1)
        return NULL;
    memcpy(wanted.public_key, public_key, KEY_TEXT);
    return bsearch(&wanted, k->key, k->n, sizeof(k->key[0]), by_public_key);
}

uint32_t keys_count(const struct keys *k)
{
    return k->n;
}

bool key_may_push(const struct key *key, const char *run, size_t n)
{
    const char *prefix = key->prefixes;
    for (uint32_t i = 0; i < key->n_prefixes; i++, prefix += strlen(prefix) + 1)
        if (strlen(prefix) <= n && memcmp(run, prefix, strlen(prefix)) == 0)
            return true;
    return false;
}

bool key_may_query(const struct key *key)
{
    return key->query || key->admin;
}

bool keys_lost_query(const struct keys *before, const struct keys *after)
{
    for (uint32_t i = 0; i < before->n; i++) {
        const struct key *now = keys_find(after, before->key[i].public_key);
        if (key_may_query(&before->key[i]) && !(now && key_may_query(now)))
            return true;
    }
    return false;
}

static uint64_t mix(uint64_t h, const void *data, size_t n)
{
    for (const uint8_t *p = data; n > 0; n--, p++)
        h = (h ^ *p) * UINT64_C(1099511628211); /* FNV-1a */
    return h;
}

uint64_t keys_fingerprint(const char *dir)
{
    struct stat st;
    DIR *open_dir = opendir(dir);
    if (!open_dir)
        return 0;
    uint64_t sum = 1; /* of the files' own numbers, as their order means nothing */
    if (fstat(dirfd(open_dir), &st) == 0)
        sum = mix(UINT64_C(14695981039346656037), &st.st_mode, sizeof(st.st_mode));
    const struct dirent *entry;
    while ((entry = readdir(open_dir))) {
        if (!is_key_file(entry->d_name) || fstatat(dirfd(open_dir), entry->d_name, &st, 0) != 0)
            continue;
        uint64_t h = mix(UINT64_C(14695981039346656037), entry->d_name, strlen(entry->d_name));
        h = mix(h, &st.st_ino, sizeof(st.st_ino));
        h = mix(h, &st.st_size, sizeof(st.st_size));
        h = mix(h, &st.st_mode, sizeof(st.st_mode));
        h = mix(h, &st.st_mtim, sizeof(st.st_mtim));
        sum += mix(h, &st.st_ctim, sizeof(st.st_ctim));
    }
    closedir(open_dir);
    return sum | 1;
}
