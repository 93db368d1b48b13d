#include "daemon/config_table.h"

#include "daemon/config.h"
#include "daemon/log.h"
#include "models/verdict.h"
#include "proto/defaults.h"

#define AT(member) offsetof(struct config, member)
#define HOOK(member) offsetof(struct config_hook, member)

const struct config_option config_options[] = {
    {"seismod", "data", TYPE_TEXT, AT(data), 0, 0, NULL, true,
     "Directory of the database seismo.db and of the sockets; made with mode 0700 when missing.\n"
     "Default: $STATE_DIRECTORY of the service, else $XDG_STATE_HOME/seismo,\n"
     "else ~/.local/state/seismo."},
    {"seismod", "ingest", TYPE_ENDPOINTS, AT(ingest), 0, 0, SEISMO_DEFAULT_INGEST, true,
     "Where training jobs connect: tcp://ADDRESS:PORT or ipc://PATH. Addresses other than\n"
     "127.0.0.1 and [::1] need keys, see [security]. Several endpoints are separated by commas,\n"
     "or stand on lines of their own. Port * picks a free one."},
    {"seismod", "query", TYPE_ENDPOINT, AT(query), 0, 0, NULL, true,
     "Where the seismo command connects. Default: ipc://DATA/" SEISMO_QUERY_SOCKET "."},
    {"seismod", "events", TYPE_ENDPOINT, AT(events), 0, 0, NULL, true,
     "Where verdicts are published. Default: ipc://DATA/" SEISMO_EVENTS_SOCKET "."},
    {"seismod", "model", TYPE_TEXT, AT(model), 0, 0, NULL, true,
     "Model file that scores the runs. Default: the one built into the program."},
    {"seismod", "budget", TYPE_NUMBER, AT(budget), 1e-6, 1, "0.01", true,
     "Share of healthy runs that may give a false alarm: 0.001, 0.01 or 0.05, for which the model\n"
     "has thresholds. The smaller, the more is missed, and the later it is called out."},
    {"seismod", "log_level", TYPE_LEVEL, AT(log_level), 0, 0, "info", false,
     "error, warning, info or debug."},
    {"seismod", "probe_every", TYPE_COUNT, AT(probe_every), 1, 1000000, "10", true,
     "Hint to clients that probe curvature: every how many steps."},
    {"security", "server_key", TYPE_TEXT, AT(server_key), 0, 0, NULL, true,
     "File of the daemon's secret key, made by `seismo keygen DIR --server`. With it every TCP\n"
     "endpoint, also on loopback, is encrypted and lets in only the clients below; without it\n"
     "TCP is for loopback only. Socket files never ask for keys."},
    {"security", "clients", TYPE_TEXT, AT(clients), 0, 0, NULL, false,
     "Directory of the clients' public keys, a file NAME.pub each, with a line of roles:\n"
     "roles = push PREFIX-OF-RUNS, query, admin. Changes hold within two seconds, or at once\n"
     "after SIGHUP; a client whose file is gone is out."},
    {"security", "socket_group", TYPE_TEXT, AT(socket_group), 0, 0, NULL, true,
     "Group that may use the socket files too (mode 0660). Default: the daemon's user alone."},
    {"security", "sandbox", TYPE_BOOL, AT(sandbox), 0, 0, "on", true,
     "on: once started, the daemon can write nothing outside of the data directory, execute\n"
     "nothing and connect nowhere; hooks are not concerned. off: only where it cannot be had."},
    {"store", "commit_interval", TYPE_NUMBER, AT(commit_interval), 0.001, 1, "0.01", true,
     "Seconds that steps are collected before they are committed and acknowledged together."},
    {"store", "commit_rows", TYPE_COUNT, AT(commit_rows), 1, 1000000, "8192", true,
     "Steps that are committed at once without waiting for the interval to end."},
    {"store", "synchronous_full", TYPE_BOOL, AT(synchronous_full), 0, 0, "no", true,
     "yes: an acknowledged step survives a power cut (slower: every commit is synced to disk).\n"
     "no: it survives a crash of the daemon, kill -9 included; the log is synced once a second,\n"
     "and a power cut may take what was acknowledged since. Neither damages the database."},
    {"store", "retain", TYPE_SPAN, AT(retain), CONFIG_MIN_RETAIN, 3.2e9, "0", false,
     "How long a run is kept after its end, in s, m, h or d: 90d. Older ones are deleted with all\n"
     "that belongs to them, a little at a time; their space is used again. 0: for ever."},
    {"store", "retain_size", TYPE_SIZE, AT(retain_size), CONFIG_MIN_SIZE, 1e15, "0", false,
     "Bytes of data, with k, M, G or T, above which the runs that ended first are deleted: 20G.\n"
     "0: however much there is."},
    {"runs", "lost_after", TYPE_NUMBER, AT(lost_after), 0.1, 604800, "60", false,
     "Seconds after which a run whose client is gone without a farewell ends as lost; they count\n"
     "from when the daemon notices."},
    {"runs", "silent_factor", TYPE_NUMBER, AT(silent_factor), 1, 1000, "10", false,
     "A run is silent when nothing came for this many times its own longest usual gap."},
    {"runs", "silent_min", TYPE_NUMBER, AT(silent_min), 0.1, 604800, "30", false,
     "Seconds below which no gap counts as silence."},
#define X(name, fallback, least, most, fixed, help) \
    {"limits", #name, TYPE_COUNT, AT(limits.name), least, most, #fallback, fixed, help},
    LIMITS_MAP(X)
#undef X
        {"hook", "command", TYPE_ARGV, HOOK(argv), 0, 0, NULL, false,
         "Program and arguments, split into words like a shell does (quotes, backslash), but run\n"
         "without a shell. It gets the alert as a JSON document on standard input."},
    {"hook", "severity", TYPE_SEVERITY, HOOK(min_severity), 0, 0, "critical", false,
     "Least severity that the hook hears of. critical: only unstable, once the detector is sure,\n"
     "and storage. warning: also stalled, mismatch, silent and ended, and early warnings of\n"
     "unstable. info: the same as warning."},
    {"hook", "states", TYPE_STATES, HOOK(states), 0, 0,
     "unstable, mismatch, silent, ended, storage", false,
     "States that the hook hears of: unstable, stalled, mismatch, silent, ended (failed or lost),\n"
     "and storage: the daemon cannot write its database. All but unstable and storage need\n"
     "severity = warning."},
    {"hook", "timeout", TYPE_NUMBER, HOOK(timeout), 0.1, 3600, "30", false,
     "Seconds after which a hook that still runs is killed."},
};
const unsigned config_options_n = sizeof(config_options) / sizeof(config_options[0]);
_Static_assert(sizeof(config_options) / sizeof(config_options[0]) <= 64,
               "config.given has a bit for each option");

const char *const config_states[] = {
#define X(constant, name) name,
    SEISMO_STATE_MAP(X)
#undef X
        [CONFIG_STORAGE] = CONFIG_STORAGE_NAME,
    NULL};
const char *const config_severities[] = {
#define X(constant, name) name,
    SEISMO_SEVERITY_MAP(X)
#undef X
        NULL};
const char *const config_levels[] = {
#define X(constant, name, priority) name,
    LOG_LEVEL_MAP(X)
#undef X
        NULL};
