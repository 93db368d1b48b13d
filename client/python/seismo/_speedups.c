/* Run.step in C, for the call that a training makes every step, and the queue that it fills. Where
 * a training spends milliseconds elsewhere, the interpreter's code and data have left the caches
 * when it comes back, and a step in Python costs ten times what it costs in a loop of its own. Here
 * it touches little more memory than its arguments and the row.
 *
 * Built where there are a compiler and Python's headers; _queue.py has the same in Python. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef Py_GIL_DISABLED
#error "made for an interpreter with a lock; loading it would bring the lock back for all"
#endif

#define MIN_FIELDS 16 /* of fewer MessagePack writes the number in another way */
#define MAX_FIELDS 64 /* bits of struct row's `present` */
#define MAX_TIME 1e15 /* s; that of _protocol.py */

/* All is done under the interpreter's lock: a row is whole as soon as anybody else can look. */
struct queue {
    PyObject ob_base;
    uint8_t *cells;       /* `limit` of them: the size of a row (2 bytes) and the row */
    Py_ssize_t cell;      /* bytes of one */
    Py_ssize_t limit;     /* rows that may wait */
    Py_ssize_t oldest, n; /* cell of the oldest row, and rows that wait */
    Py_ssize_t until;     /* rows in it from which on whoever adds one wakes the thread */
    int wake_fd;          /* by a byte; negative: there is no thread */
    long long dropped;
    long long taken; /* by step_call */
};

/* Run.step, a method. */
struct step {
    PyObject ob_base;
    vectorcallfunc vectorcall;
    PyObject *function; /* in Python, for all calls but the usual ones */
    PyObject *dict;
    PyObject *kwnames; /* of the last usual call, mostly those of the next one too; or NULL */
    uint8_t field[MAX_FIELDS]; /* that each of them names */
};

struct row {
    uint64_t step;
    uint64_t present; /* bit i: value[i] is set */
    double value[MAX_FIELDS];
};

/* From seismo._protocol, the same for all runs. */
static struct {
    PyObject *name[MAX_FIELDS]; /* interned */
    Py_ssize_t n, step, time, loss;
} fields;

static PyObject *queue_name; /* the attribute of a run */

/* ---- a row, as one of a STEPS message (proto/PROTOCOL.md) ---- */

static Py_ssize_t max_row(void)
{
    return 3 + 9 * fields.n;
}

static uint8_t *put_big_endian(uint8_t *to, uint64_t x, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--) {
        *to++ = (uint8_t)(x >> 8 * i);
    }
    return to;
}

/* As short as MessagePack allows. */
static uint8_t *put_integer(uint8_t *to, uint64_t x)
{
    int bytes = x <= UINT8_MAX ? 1 : x <= UINT16_MAX ? 2 : x <= UINT32_MAX ? 4 : 8;

    if (x > 0x7f) {
        *to++ = bytes == 1 ? 0xcc : bytes == 2 ? 0xcd : bytes == 4 ? 0xce : 0xcf;
    }
    return put_big_endian(to, x, bytes);
}

static uint8_t *put_double(uint8_t *to, double x)
{
    uint64_t bits;

    memcpy(&bits, &x, sizeof(bits));
    *to++ = 0xcb;
    return put_big_endian(to, bits, 8);
}

/* Bytes written, max_row() at most. */
static Py_ssize_t pack_row(const struct row *row, uint8_t *to)
{
    const uint8_t *begin = to;

    *to++ = 0xdc; /* array, its length in 16 bits */
    to = put_big_endian(to, (uint64_t)fields.n, 2);
    for (Py_ssize_t i = 0; i < fields.n; i++) {
        if (i == fields.step) {
            to = put_integer(to, row->step);
        } else if (row->present >> i & 1) {
            to = put_double(to, row->value[i]);
        } else {
            *to++ = 0xc0; /* nil */
        }
    }
    return to - begin;
}

/* ---- the queue ---- */

/* The i-th cell from the oldest row's on. */
static uint8_t *cell_at(const struct queue *q, Py_ssize_t i)
{
    Py_ssize_t at = q->oldest + i;

    return q->cells + (at < q->limit ? at : at - q->limit) * q->cell;
}

static uint8_t *row_in(uint8_t *cell)
{
    return cell + sizeof(uint16_t);
}

static uint16_t size_in(const uint8_t *cell)
{
    uint16_t size;

    memcpy(&size, cell, sizeof(size));
    return size;
}

static void set_size(uint8_t *cell, Py_ssize_t n)
{
    uint16_t size = (uint16_t)n;

    memcpy(cell, &size, sizeof(size));
}

/* The cell for one more row; when there is none left, that of the oldest row, which is dropped. */
static uint8_t *new_cell(struct queue *q)
{
    if (q->n == q->limit) {
        q->oldest = q->oldest + 1 < q->limit ? q->oldest + 1 : 0;
        q->n--;
        q->dropped++;
    }
    return cell_at(q, q->n++);
}

static PyObject *queue_put(PyObject *self, PyObject *row)
{
    struct queue *q = (struct queue *)self;
    bool full = q->n == q->limit;
    uint8_t *cell;

    if (!PyBytes_Check(row) || PyBytes_GET_SIZE(row) > max_row()) {
        PyErr_SetString(PyExc_ValueError, "not a packed row");
        return NULL;
    }
    cell = new_cell(q);
    set_size(cell, PyBytes_GET_SIZE(row));
    memcpy(row_in(cell), PyBytes_AS_STRING(row), (size_t)PyBytes_GET_SIZE(row));
    return PyBool_FromLong(full && q->dropped == 1);
}

static PyObject *queue_take(PyObject *self, PyObject *most)
{
    struct queue *q = (struct queue *)self;
    Py_ssize_t n = PyNumber_AsSsize_t(most, PyExc_OverflowError), size = 0;
    PyObject *rows;
    char *to;

    if (n == -1 && PyErr_Occurred()) {
        return NULL;
    }
    n = n < 0 ? 0 : n < q->n ? n : q->n;
    for (Py_ssize_t i = 0; i < n; i++) {
        size += size_in(cell_at(q, i));
    }
    rows = PyBytes_FromStringAndSize(NULL, size);
    if (rows == NULL) {
        return NULL;
    }
    to = PyBytes_AS_STRING(rows);
    for (Py_ssize_t i = 0; i < n; i++) {
        uint8_t *cell = cell_at(q, i);

        memcpy(to, row_in(cell), size_in(cell));
        to += size_in(cell);
    }
    q->oldest = (q->oldest + n) % q->limit;
    q->n -= n;
    return Py_BuildValue("(nN)", n, rows);
}

static PyObject *queue_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", NULL};
    Py_ssize_t limit, cell = (Py_ssize_t)sizeof(uint16_t) + max_row();
    struct queue *q;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "n", names, &limit)) {
        return NULL;
    }
    if (limit < 1 || limit > PY_SSIZE_T_MAX / cell) {
        PyErr_SetString(PyExc_ValueError, "no such number of rows");
        return NULL;
    }
    q = (struct queue *)type->tp_alloc(type, 0);
    if (q == NULL) {
        return NULL;
    }
    q->limit = limit;
    q->cell = cell;
    q->wake_fd = -1;
    q->cells = PyMem_RawMalloc((size_t)(limit * cell));
    if (q->cells == NULL) {
        Py_DECREF(q);
        return PyErr_NoMemory();
    }
    /* So that the system gives all of it now and not page by page, in the training's time. Not
     * zeros, for which the compiler may choose calloc. */
    memset(q->cells, 0xc0, (size_t)(limit * cell));
    return (PyObject *)q;
}

static void queue_dealloc(PyObject *self)
{
    PyMem_RawFree(((struct queue *)self)->cells);
    Py_TYPE(self)->tp_free(self);
}

static Py_ssize_t queue_length(PyObject *self)
{
    return ((struct queue *)self)->n;
}

static PyMemberDef queue_members[] = {
    {"limit", T_PYSSIZET, offsetof(struct queue, limit), READONLY, NULL},
    {"until", T_PYSSIZET, offsetof(struct queue, until), 0, NULL},
    {"wake_fd", T_INT, offsetof(struct queue, wake_fd), 0, NULL},
    {"dropped", T_LONGLONG, offsetof(struct queue, dropped), 0, NULL},
    {"taken", T_LONGLONG, offsetof(struct queue, taken), READONLY, NULL},
    {NULL},
};

static PyMethodDef queue_methods[] = {
    {"put", queue_put, METH_O, NULL},
    {"take", queue_take, METH_O, NULL},
    {NULL},
};

static PySequenceMethods queue_sequence = {.sq_length = queue_length};

static PyTypeObject queue_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "seismo._speedups.Queue",
    .tp_doc = "The queue of a run, see seismo/_queue.py.",
    .tp_basicsize = sizeof(struct queue),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = queue_new,
    .tp_dealloc = queue_dealloc,
    .tp_members = queue_members,
    .tp_methods = queue_methods,
    .tp_as_sequence = &queue_sequence,
};

/* ---- the call ---- */

/* Which fields these are; false when one is unknown. Names in a program's text are interned, so
 * that their addresses tell. */
static bool find_fields(struct step *s, PyObject *kwnames)
{
    Py_ssize_t n = PyTuple_GET_SIZE(kwnames), at = 0;

    if (kwnames == s->kwnames) {
        return true;
    }
    if (n > fields.n) {
        return false;
    }
    Py_CLEAR(s->kwnames); /* `field` is about to be another's */
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_ssize_t looked = 0;

        while (fields.name[at] != PyTuple_GET_ITEM(kwnames, i)) { /* mostly they are in order */
            at = at + 1 < fields.n ? at + 1 : 0;
            if (++looked == fields.n) {
                return false;
            }
        }
        if (at == fields.step) { /* given twice */
            return false;
        }
        s->field[i] = (uint8_t)at;
    }
    Py_INCREF(kwnames);
    s->kwnames = kwnames;
    return true;
}

static double epoch_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (double)((int64_t)t.tv_sec * 1000000000 + t.tv_nsec) / 1e9;
}

/* False, with or without an error set, when it is a call for the function in Python. */
static bool read_row(struct step *s, PyObject *step, PyObject *const *values, PyObject *kwnames,
                     struct row *ret)
{
    int overflow;
    long long number;

    if (!PyLong_CheckExact(step) || !find_fields(s, kwnames)) {
        return false;
    }
    number = PyLong_AsLongLongAndOverflow(step, &overflow);
    if (number < 0) { /* -1 when it is too large, too */
        return false;
    }
    ret->step = (uint64_t)number;
    ret->present = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++) {
        uint8_t field = s->field[i];

        if (PyFloat_Check(values[i])) {
            ret->value[field] = PyFloat_AS_DOUBLE(values[i]);
        } else if (PyLong_CheckExact(values[i])) {
            ret->value[field] = PyLong_AsDouble(values[i]);
            if (ret->value[field] == -1.0 && PyErr_Occurred()) {
                return false;
            }
        } else if (values[i] == Py_None) {
            continue;
        } else {
            return false;
        }
        ret->present |= UINT64_C(1) << field;
    }
    if (!(ret->present >> fields.time & 1)) {
        ret->value[fields.time] = epoch_now();
        ret->present |= UINT64_C(1) << fields.time;
    }
    return ret->present >> fields.loss & 1 && fabs(ret->value[fields.time]) <= MAX_TIME;
}

/* Whether a row need only be added: there is a thread, and no first drop to be reported. */
static bool is_usual(const struct queue *q)
{
    return q->wake_fd >= 0 && (q->n < q->limit || q->dropped > 0);
}

static void add_row(struct queue *q, const struct row *row)
{
    uint8_t *cell = new_cell(q);

    set_size(cell, pack_row(row, row_in(cell)));
    q->taken++;
    if (q->n >= q->until) {
        q->until = PY_SSIZE_T_MAX;
        if (write(q->wake_fd, "", 1) < 0) {
            /* The pipe is full: the thread will wake up anyway. */
        }
    }
}

/* False, with or without an error set, when nothing has been done. */
static bool take(struct step *s, PyObject *run, PyObject *step, PyObject *const *values,
                 PyObject *kwnames)
{
    PyObject *object = PyObject_GetAttr(run, queue_name);
    struct row row;
    bool taken = object != NULL && Py_TYPE(object) == &queue_type &&
                 is_usual((struct queue *)object) && read_row(s, step, values, kwnames, &row);

    if (taken) {
        add_row((struct queue *)object, &row);
    }
    Py_XDECREF(object);
    return taken;
}

/* run.step(step, name=value, …), `run` being the first argument. */
static PyObject *step_call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct step *s = (struct step *)self;

    if (PyVectorcall_NARGS(nargsf) == 2 && kwnames != NULL &&
        take(s, args[0], args[1], args + 2, kwnames)) {
        Py_RETURN_NONE;
    }
    PyErr_Clear();
    return PyObject_Vectorcall(s->function, args, nargsf, kwnames);
}

static PyObject *step_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"function", NULL};
    PyObject *function;
    struct step *s;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O", names, &function)) {
        return NULL;
    }
    s = (struct step *)type->tp_alloc(type, 0);
    if (s == NULL) {
        return NULL;
    }
    s->vectorcall = step_call;
    Py_INCREF(function);
    s->function = function;
    return (PyObject *)s;
}

static int step_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct step *s = (struct step *)self;

    Py_VISIT(s->function);
    Py_VISIT(s->dict);
    Py_VISIT(s->kwnames);
    return 0;
}

static int step_clear(PyObject *self)
{
    struct step *s = (struct step *)self;

    Py_CLEAR(s->function);
    Py_CLEAR(s->dict);
    Py_CLEAR(s->kwnames);
    return 0;
}

static void step_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    step_clear(self);
    Py_TYPE(self)->tp_free(self);
}

/* Like a function's: bound to a run. */
static PyObject *step_get(PyObject *self, PyObject *run, PyObject *type)
{
    (void)type;
    if (run == NULL) {
        Py_INCREF(self);
        return self;
    }
    return PyMethod_New(self, run);
}

static PyGetSetDef step_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL},
};

static PyTypeObject step_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "seismo._speedups.Step",
    .tp_doc = "Step(function): a method that takes the usual call and leaves others to `function`.",
    .tp_basicsize = sizeof(struct step),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
                Py_TPFLAGS_METHOD_DESCRIPTOR,
    .tp_new = step_new,
    .tp_dealloc = step_dealloc,
    .tp_traverse = step_traverse,
    .tp_clear = step_clear,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(struct step, vectorcall),
    .tp_descr_get = step_get,
    .tp_dictoffset = offsetof(struct step, dict),
    .tp_getset = step_getset,
};

/* ---- the module ---- */

static int read_fields(PyObject *names)
{
    fields.n = PyTuple_Check(names) ? PyTuple_GET_SIZE(names) : 0;
    fields.step = fields.time = fields.loss = -1;
    if (fields.n < MIN_FIELDS || fields.n > MAX_FIELDS) {
        PyErr_SetString(PyExc_ImportError, "made for 16 to 64 step fields");
        return -1;
    }
    for (Py_ssize_t i = 0; i < fields.n; i++) {
        const char *name = PyUnicode_AsUTF8(PyTuple_GET_ITEM(names, i));

        fields.name[i] = name != NULL ? PyUnicode_InternFromString(name) : NULL;
        if (fields.name[i] == NULL) {
            return -1;
        }
        if (strcmp(name, "step") == 0) {
            fields.step = i;
        } else if (strcmp(name, "time") == 0) {
            fields.time = i;
        } else if (strcmp(name, "loss") == 0) {
            fields.loss = i;
        }
    }
    if (fields.step < 0 || fields.time < 0 || fields.loss < 0) {
        PyErr_SetString(PyExc_ImportError, "step, time or loss is no step field");
        return -1;
    }
    queue_name = PyUnicode_InternFromString("_queue");
    return queue_name != NULL ? 0 : -1;
}

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "seismo._speedups",
    .m_doc = "The parts of the client that a training waits for.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__speedups(void); /* called by the interpreter alone */

PyMODINIT_FUNC PyInit__speedups(void)
{
    PyObject *protocol = PyImport_ImportModule("seismo._protocol");
    PyObject *names = protocol != NULL ? PyObject_GetAttrString(protocol, "FIELDS") : NULL;
    PyObject *m = NULL;

    if (names != NULL && read_fields(names) == 0) {
        m = PyModule_Create(&module);
    }
    /* INTERFACE is that of _queue.py: another number whenever the two change together. */
    if (m != NULL &&
        (PyModule_AddType(m, &queue_type) != 0 || PyModule_AddType(m, &step_type) != 0 ||
         PyModule_AddIntConstant(m, "INTERFACE", 1) != 0)) {
        Py_CLEAR(m);
    }
    Py_XDECREF(names);
    Py_XDECREF(protocol);
    return m;
}
