/* The hot functions of trio_ws/_frames.py in C: the same answers, to the byte.

   What each function promises is said there. The stable ABI of CPython 3.11 is all that is used;
   words are read and written by memcpy, because nothing says that payloads are aligned. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define KEY_SIZE 4
#define WORD sizeof(uint64_t)

typedef unsigned char byte;

/* Arguments */

static int
check_count(const char *name, Py_ssize_t count, Py_ssize_t least, Py_ssize_t most)
{
    if (count >= least && count <= most) {
        return 1;
    }
    PyErr_Format(PyExc_TypeError, "%s() takes %zd to %zd arguments, not %zd", name, least, most,
                 count);
    return 0;
}

/* Copies the key at *argument*, as it stands after *offset* bytes, into *key*. */
static int
get_key(PyObject *argument, size_t offset, byte key[KEY_SIZE])
{
    char *given;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(argument, &given, &size) < 0) {
        return 0;
    }
    if (size != KEY_SIZE) {
        PyErr_SetString(PyExc_ValueError, "a masking key has four bytes");
        return 0;
    }
    for (size_t index = 0; index < KEY_SIZE; index++) {
        key[index] = (byte)given[(index + offset) % KEY_SIZE];
    }
    return 1;
}

/* Of any int what matters to a rotation: its last bits. */
static int
get_offset(PyObject *argument, size_t *offset)
{
    unsigned long long bits = PyLong_AsUnsignedLongLongMask(argument);
    *offset = (size_t)(bits % KEY_SIZE);
    return !PyErr_Occurred();
}

/* Masking */

static uint64_t
repeat_key(const byte key[KEY_SIZE])
{
    byte repeated[WORD];
    uint64_t word;
    for (size_t index = 0; index < WORD; index++) {
        repeated[index] = key[index % KEY_SIZE];
    }
    memcpy(&word, repeated, WORD);
    return word;
}

static void
mask_copy(byte *restrict to, const byte *restrict from, size_t size, const byte key[KEY_SIZE])
{
    const uint64_t mask = repeat_key(key);
    const size_t whole = size - size % WORD;
    for (size_t index = 0; index < whole; index += WORD) {
        uint64_t word;
        memcpy(&word, from + index, WORD);
        word ^= mask;
        memcpy(to + index, &word, WORD);
    }
    for (size_t index = whole; index < size; index++) {
        to[index] = from[index] ^ key[index % KEY_SIZE];
    }
}

static void
mask_here(byte *payload, size_t size, const byte key[KEY_SIZE])
{
    const uint64_t mask = repeat_key(key);
    const size_t whole = size - size % WORD;
    for (size_t index = 0; index < whole; index += WORD) {
        uint64_t word;
        memcpy(&word, payload + index, WORD);
        word ^= mask;
        memcpy(payload + index, &word, WORD);
    }
    for (size_t index = whole; index < size; index++) {
        payload[index] ^= key[index % KEY_SIZE];
    }
}

PyDoc_STRVAR(apply_mask_doc, "apply_mask($module, payload, key, offset=0, /)\n--\n\n"
                             "As trio_ws._frames.pure_apply_mask.");

static PyObject *
apply_mask(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    size_t offset = 0;
    byte key[KEY_SIZE];
    Py_buffer payload;
    if (!check_count("apply_mask", count, 2, 3) ||
        (count == 3 && !get_offset(arguments[2], &offset)) ||
        !get_key(arguments[1], offset, key) ||
        PyObject_GetBuffer(arguments[0], &payload, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *masked = PyBytes_FromStringAndSize(NULL, payload.len);
    if (masked != NULL) {
        mask_copy((byte *)PyBytes_AsString(masked), payload.buf, (size_t)payload.len, key);
    }
    PyBuffer_Release(&payload);
    return masked;
}

PyDoc_STRVAR(mask_in_place_doc, "mask_in_place($module, buffer, start, key, offset=0, /)\n--\n\n"
                                "As trio_ws._frames.pure_mask_in_place.");

static PyObject *
mask_in_place(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    size_t offset = 0;
    byte key[KEY_SIZE];
    Py_buffer buffer;
    if (!check_count("mask_in_place", count, 3, 4) ||
        (count == 4 && !get_offset(arguments[3], &offset)) ||
        !get_key(arguments[2], offset, key)) {
        return NULL;
    }
    Py_ssize_t start = PyLong_AsSsize_t(arguments[1]);
    if ((start == -1 && PyErr_Occurred()) ||
        PyObject_GetBuffer(arguments[0], &buffer, PyBUF_WRITABLE) < 0) {
        return NULL;
    }
    const int is_inside = start >= 0 && start <= buffer.len;
    if (is_inside) {
        mask_here((byte *)buffer.buf + start, (size_t)(buffer.len - start), key);
    }
    else {
        PyErr_SetString(PyExc_ValueError, "start must be within the buffer");
    }
    PyBuffer_Release(&buffer);
    return is_inside ? Py_NewRef(Py_None) : NULL;
}

/* The module */

#define FUNCTION(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, name##_doc}

static PyMethodDef functions[] = {
    FUNCTION(apply_mask),
    FUNCTION(mask_in_place),
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(module_doc, "The hot functions of trio_ws._frames in C.");

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "trio_ws._speedups",
    .m_doc = module_doc,
    .m_size = 0,
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&definition);
}
