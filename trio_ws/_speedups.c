/* The hot functions of trio_ws/_frames.py in C: the same answers, to the byte.

   What each function promises is said there. The stable ABI of CPython 3.11 is all that is used;
   words are read and written by memcpy, because nothing says that payloads are aligned. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
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

static int
get_size(PyObject *argument, Py_ssize_t *size)
{
    *size = PyLong_AsSsize_t(argument);
    return *size != -1 || !PyErr_Occurred();
}

/* Any number that does not fit is as good as the nearest that does. */
static int
get_bound(PyObject *argument, Py_ssize_t *bound)
{
    *bound = PyNumber_AsSsize_t(argument, NULL);
    return *bound != -1 || !PyErr_Occurred();
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

/* Headers and frames */

#define FIN_BIT 0x80
#define MASK_BIT 0x80
#define MAX_HEADER_SIZE 14

static byte *
write_big_endian(byte *to, uint64_t number, int size)
{
    while (size-- > 0) {
        *to++ = (byte)(number >> (8 * size));
    }
    return to;
}

/* Writes a header of at most MAX_HEADER_SIZE bytes; *key* is NULL for a frame that is not masked. */
static size_t
write_header(byte *header, byte first, uint64_t length, const byte *key)
{
    const byte mask_bit = key == NULL ? 0 : MASK_BIT;
    byte *position = header;
    *position++ = first;
    if (length < 126) {
        *position++ = mask_bit | (byte)length;
    }
    else if (length <= 0xFFFF) {
        *position++ = mask_bit | 126;
        position = write_big_endian(position, length, 2);
    }
    else {
        *position++ = mask_bit | 127;
        position = write_big_endian(position, length, 8);
    }
    if (key != NULL) {
        memcpy(position, key, KEY_SIZE);
        position += KEY_SIZE;
    }
    return (size_t)(position - header);
}

static int
get_first_byte(PyObject *argument, byte *first)
{
    const long number = PyLong_AsLong(argument);
    if (number == -1 && PyErr_Occurred()) {
        return 0;
    }
    if (number < 0 || number > 0xFF) {
        PyErr_SetString(PyExc_ValueError, "the first byte must be in range(256)");
        return 0;
    }
    *first = (byte)number;
    return 1;
}

/* *key* becomes *space* with the key in it, or NULL for None. */
static int
get_key_or_none(PyObject *argument, byte space[KEY_SIZE], const byte **key)
{
    *key = argument == Py_None ? NULL : space;
    return *key == NULL || get_key(argument, 0, space);
}

PyDoc_STRVAR(pack_header_doc, "pack_header($module, first_byte, length, key, /)\n--\n\n"
                              "As trio_ws._frames.pure_pack_header.");

static PyObject *
pack_header(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    byte first, space[KEY_SIZE], header[MAX_HEADER_SIZE];
    const byte *key;
    if (!check_count("pack_header", count, 3, 3) || !get_first_byte(arguments[0], &first) ||
        !get_key_or_none(arguments[2], space, &key)) {
        return NULL;
    }
    const unsigned long long length = PyLong_AsUnsignedLongLong(arguments[1]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    const size_t size = write_header(header, first, length, key);
    return PyBytes_FromStringAndSize((const char *)header, (Py_ssize_t)size);
}

/* Writes a frame of at most MAX_HEADER_SIZE + *length* bytes. */
static size_t
write_frame(byte *frame, byte first, const byte *payload, size_t length, const byte *key)
{
    const size_t header_size = write_header(frame, first, length, key);
    if (key != NULL) {
        mask_copy(frame + header_size, payload, length, key);
    }
    else if (length > 0) {
        memcpy(frame + header_size, payload, length);
    }
    return header_size + length;
}

static PyObject *
frame_of(byte first, const byte *payload, size_t length, const byte *key)
{
    byte header[MAX_HEADER_SIZE];
    const size_t header_size = write_header(header, first, length, key);
    if (length > (size_t)PY_SSIZE_T_MAX - header_size) {
        return PyErr_NoMemory();
    }
    PyObject *frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(header_size + length));
    if (frame != NULL) {
        write_frame((byte *)PyBytes_AsString(frame), first, payload, length, key);
    }
    return frame;
}

PyDoc_STRVAR(pack_frame_doc, "pack_frame($module, first_byte, payload, key, /)\n--\n\n"
                             "As trio_ws._frames.pure_pack_frame.");

static PyObject *
pack_frame(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    byte first, space[KEY_SIZE];
    const byte *key;
    Py_buffer payload;
    if (!check_count("pack_frame", count, 3, 3) || !get_first_byte(arguments[0], &first) ||
        !get_key_or_none(arguments[2], space, &key) ||
        PyObject_GetBuffer(arguments[1], &payload, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *frame = frame_of(first, payload.buf, (size_t)payload.len, key);
    PyBuffer_Release(&payload);
    return frame;
}

/* Many frames at once */

enum { OPCODE, PAYLOAD, FIN, COMPRESS, CUT, FIELDS };

/* Whether *message*, a tuple of the fields above, is a frame of its own that is not too large. */
static int
is_simple(PyObject *message, Py_ssize_t max_payload)
{
    PyObject *payload = PyTuple_GetItem(message, PAYLOAD);
    return PyTuple_GetItem(message, OPCODE) != Py_None && PyBytes_Check(payload) &&
           PyBytes_Size(payload) <= max_payload &&
           PyTuple_GetItem(message, COMPRESS) == Py_False &&
           PyTuple_GetItem(message, CUT) == Py_False;
}

/* The first byte of the frame of *message*, which is simple. */
static int
get_first_of(PyObject *message, byte *first)
{
    const int fin = PyObject_IsTrue(PyTuple_GetItem(message, FIN));
    if (fin < 0 || !get_first_byte(PyTuple_GetItem(message, OPCODE), first)) {
        return 0;
    }
    if (fin) {
        *first |= FIN_BIT;
    }
    return 1;
}

static size_t
payload_size_of(PyObject *message)
{
    return (size_t)PyBytes_Size(PyTuple_GetItem(message, PAYLOAD));
}

static size_t
frame_size(size_t length, int masked)
{
    const size_t extended = length < 126 ? 0 : length <= 0xFFFF ? 2 : 8;
    return 2 + extended + (masked ? KEY_SIZE : 0) + length;
}

/* Adds those of *messages* to *taken* that are to become frames: as long as they are simple, there
   is a key for each and the frames before have at most *limit* bytes. *size* is that of all. */
static int
take_messages(PyObject *taken, size_t *size, PyObject *messages, Py_ssize_t max_payload,
              Py_ssize_t limit, int masked, Py_ssize_t key_count)
{
    PyObject *message;
    while (limit >= 0 && *size <= (size_t)limit && (!masked || key_count-- > 0) &&
           (message = PyIter_Next(messages)) != NULL) {
        int is_last = 1, failed = 0;
        if (!PyTuple_Check(message) || PyTuple_Size(message) != FIELDS) {
            PyErr_SetString(PyExc_TypeError, "a message is a tuple of five");
            failed = 1;
        }
        else if (is_simple(message, max_payload)) {
            is_last = 0;
            failed = PyList_Append(taken, message) < 0;
            *size += frame_size(payload_size_of(message), masked);
        }
        Py_DECREF(message);
        if (failed) {
            return 0;
        }
        if (is_last) {
            break;
        }
    }
    return !PyErr_Occurred();
}

static int
append_end(PyObject *ends, long long end)
{
    PyObject *number = PyLong_FromLongLong(end);
    const int failed = number == NULL || PyList_Append(ends, number) < 0;
    Py_XDECREF(number);
    return !failed;
}

/* Writes the frames of *taken* into *frames*, which has room for them. */
static int
write_messages(byte *frames, PyObject *ends, long long start, size_t *payload_size,
               PyObject *taken, const byte *keys)
{
    const Py_ssize_t count = PyList_Size(taken);
    size_t end = 0;
    for (Py_ssize_t index = 0; index < count; index++) {
        byte first;
        PyObject *message = PyList_GetItem(taken, index);
        const size_t length = payload_size_of(message);
        if (!get_first_of(message, &first)) {
            return 0;
        }
        const char *payload = PyBytes_AsString(PyTuple_GetItem(message, PAYLOAD));
        end += write_frame(frames + end, first, (const byte *)payload, length,
                           keys == NULL ? NULL : keys + KEY_SIZE * index);
        *payload_size += length;
        if (!append_end(ends, start + (long long)end)) {
            return 0;
        }
    }
    return 1;
}

PyDoc_STRVAR(pack_messages_doc,
             "pack_messages($module, messages, max_payload, limit, keys, start, /)\n--\n\n"
             "As trio_ws._frames.pure_pack_messages.");

static PyObject *
pack_messages(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    char *keys = NULL;
    Py_ssize_t max_payload, limit, keys_size = 0;
    size_t size = 0, payload_size = 0;
    PyObject *frames = NULL, *result = NULL;
    if (!check_count("pack_messages", count, 5, 5) || !get_size(arguments[1], &max_payload) ||
        !get_size(arguments[2], &limit) ||
        (arguments[3] != Py_None &&
         PyBytes_AsStringAndSize(arguments[3], &keys, &keys_size) < 0)) {
        return NULL;
    }
    /* All that a connection has sent may be more than a size, where that has 32 bits. */
    const long long start = PyLong_AsLongLong(arguments[4]);
    if (start == -1 && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *messages = PyObject_GetIter(arguments[0]);
    PyObject *taken = PyList_New(0);
    PyObject *ends = PyList_New(0);
    if (messages != NULL && taken != NULL && ends != NULL &&
        take_messages(taken, &size, messages, max_payload, limit, keys != NULL,
                      keys_size / KEY_SIZE)) {
        frames = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    }
    if (frames != NULL && write_messages((byte *)PyBytes_AsString(frames), ends, start,
                                         &payload_size, taken, (const byte *)keys)) {
        result = Py_BuildValue("(OOn)", frames, ends, (Py_ssize_t)payload_size);
    }
    Py_XDECREF(frames);
    Py_XDECREF(ends);
    Py_XDECREF(taken);
    Py_XDECREF(messages);
    return result;
}

/* UTF-8 */

#define NO_ASCII UINT64_C(0x8080808080808080)

/* Where the ASCII that *text* has from *position* on ends. */
static size_t
skip_ascii(const byte *text, size_t position, size_t size)
{
    uint64_t words[4];
    while (size - position >= sizeof words) {
        memcpy(words, text + position, sizeof words);
        if ((words[0] | words[1] | words[2] | words[3]) & NO_ASCII) {
            break;
        }
        position += sizeof words;
    }
    while (size - position >= WORD) {
        memcpy(words, text + position, WORD);
        if (words[0] & NO_ASCII) {
            break;
        }
        position += WORD;
    }
    while (position < size && text[position] < 0x80) {
        position++;
    }
    return position;
}

/* Bytes that the code point beginning with *lead* takes, not ASCII; 0 if none begins so. *low* and
   *high* get the range of its second byte (the Unicode standard, table 3-7). */
static size_t
code_point_size(byte lead, byte *low, byte *high)
{
    *low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    *high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (lead < 0xC2 || lead > 0xF4) {
        return 0;
    }
    return lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

static int
is_continuation(byte octet)
{
    return (octet & 0xC0) == 0x80;
}

/* Skips code points of two and three bytes whose second byte may be any: most of what is not ASCII,
   three times as fast as by the general rule. */
static size_t
skip_common(const byte *text, size_t position, size_t size)
{
    while (size - position >= 3) {
        const byte lead = text[position];
        if (!is_continuation(text[position + 1])) {
            break;
        }
        if (lead >= 0xC2 && lead < 0xE0) {
            position += 2;
        }
        else if (lead > 0xE0 && lead < 0xF0 && lead != 0xED && is_continuation(text[position + 2])) {
            position += 3;
        }
        else {
            break;
        }
    }
    return position;
}

/* Where the whole code points of *text* end. What follows is nothing, the start of one more, or
   what none begins with: then *is_valid* is 0. */
static size_t
utf8_end(const byte *text, size_t size, int *is_valid)
{
    size_t position = 0;
    *is_valid = 1;
    while ((position = skip_ascii(text, skip_common(text, position, size), size)) < size) {
        byte low, high;
        const size_t whole = code_point_size(text[position], &low, &high);
        const size_t here = size - position < whole ? size - position : whole;
        *is_valid = whole != 0;
        if (here > 1) {
            *is_valid = text[position + 1] >= low && text[position + 1] <= high;
        }
        for (size_t index = 2; index < here; index++) {
            *is_valid &= is_continuation(text[position + index]);
        }
        if (!*is_valid || here < whole) {
            break;
        }
        position += whole;
    }
    return position;
}

/* Raises what Python's codec says of *text*, of which utf8_end() has not been content. */
static void
raise_unicode_error(const byte *text, size_t size, int final)
{
    Py_ssize_t consumed = 0;
    PyObject *decoded = PyUnicode_DecodeUTF8Stateful((const char *)text, (Py_ssize_t)size, "strict",
                                                     final ? NULL : &consumed);
    if (decoded == NULL) {
        return;
    }
    Py_DECREF(decoded);
    /* The codec lets a surrogate pass until its third byte. */
    PyObject *error =
        PyUnicodeDecodeError_Create("utf-8", (const char *)text + consumed,
                                    (Py_ssize_t)size - consumed, 0, 2, "surrogates not allowed");
    if (error != NULL) {
        PyErr_SetObject(PyExc_UnicodeDecodeError, error);
        Py_DECREF(error);
    }
}

static PyObject *
check_utf8(const byte *text, size_t size, int final)
{
    int is_valid;
    const size_t end = utf8_end(text, size, &is_valid);
    if (!is_valid || (final && end < size)) {
        raise_unicode_error(text, size, final);
        return NULL;
    }
    return PyBytes_FromStringAndSize((const char *)text + end, (Py_ssize_t)(size - end));
}

/* The same of *pending* and *data* behind it. */
static PyObject *
check_joined_utf8(const byte *pending, size_t pending_size, const Py_buffer *data, int final)
{
    const size_t size = pending_size + (size_t)data->len;
    byte *joined = PyMem_Malloc(size);
    if (joined == NULL) {
        return PyErr_NoMemory();
    }
    memcpy(joined, pending, pending_size);
    if (data->len > 0) {
        memcpy(joined + pending_size, data->buf, (size_t)data->len);
    }
    PyObject *rest = check_utf8(joined, size, final);
    PyMem_Free(joined);
    return rest;
}

PyDoc_STRVAR(validate_utf8_doc, "validate_utf8($module, pending, data, final, /)\n--\n\n"
                                "As trio_ws._frames.pure_validate_utf8.");

static PyObject *
validate_utf8(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    char *pending;
    Py_ssize_t pending_size;
    Py_buffer data;
    if (!check_count("validate_utf8", count, 3, 3) ||
        PyBytes_AsStringAndSize(arguments[0], &pending, &pending_size) < 0) {
        return NULL;
    }
    const int final = PyObject_IsTrue(arguments[2]);
    if (final < 0 || PyObject_GetBuffer(arguments[1], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *rest =
        pending_size == 0
            ? check_utf8(data.buf, (size_t)data.len, final)
            : check_joined_utf8((const byte *)pending, (size_t)pending_size, &data, final);
    PyBuffer_Release(&data);
    return rest;
}

/* Decoding */

/* As in trio_ws._frames. */
#define FRAME_COST 512

#define RSV1_BIT 0x40
#define OPCODE_BITS 0x0F
#define WHOLE_TEXT 0x81
#define WHOLE_BINARY 0x82

typedef struct {
    byte first;
    int is_minimal;
    const byte *key;
    uint64_t length;
    Py_ssize_t size;
} Header;

/* Reads the header that begins at *wire*, of which *available* bytes are there. Returns 0 if it is
   not whole. */
static int
read_header(const byte *wire, Py_ssize_t available, Header *header)
{
    if (available < 2) {
        return 0;
    }
    const int masked = (wire[1] & MASK_BIT) != 0;
    uint64_t length = wire[1] & 0x7F;
    const int extended = length == 126 ? 2 : length == 127 ? 8 : 0;
    header->size = 2 + extended + (masked ? KEY_SIZE : 0);
    if (available < header->size) {
        return 0;
    }
    header->is_minimal = 1;
    if (extended != 0) {
        length = 0;
        for (int index = 0; index < extended; index++) {
            length = length << 8 | wire[2 + index];
        }
        header->is_minimal = length > (extended == 2 ? 125 : 0xFFFF);
    }
    header->first = wire[0];
    header->key = masked ? wire + 2 + extended : NULL;
    header->length = length;
    return 1;
}

typedef struct {
    byte first;
    const byte *key;
    const byte *payload;
    Py_ssize_t length;
} Frame;

/* Reads the frame that begins at *wire*, of which *available* bytes are there, and which has the
   reserved bits *reserved*; they are not in its *first*. Returns its size on the wire, or 0 if it
   is not whole or not simple. */
static Py_ssize_t
read_frame(const byte *wire, Py_ssize_t available, int masked, byte reserved, Frame *frame)
{
    Header header;
    if (!read_header(wire, available, &header)) {
        return 0;
    }
    frame->first = header.first ^ reserved;
    if ((frame->first != WHOLE_TEXT && frame->first != WHOLE_BINARY) ||
        (header.key != NULL) != masked || !header.is_minimal ||
        header.length > (uint64_t)(available - header.size)) {
        return 0;
    }
    frame->key = header.key;
    frame->payload = wire + header.size;
    frame->length = (Py_ssize_t)header.length;
    return header.size + frame->length;
}

/* Room to unmask text in before it becomes a str. */
typedef struct {
    byte small[4096];
    byte *large;
    Py_ssize_t large_size;
} Scratch;

static byte *
scratch_for(Scratch *scratch, Py_ssize_t size)
{
    if (size <= (Py_ssize_t)sizeof scratch->small) {
        return scratch->small;
    }
    if (size > scratch->large_size) {
        byte *larger = PyMem_Realloc(scratch->large, (size_t)size);
        if (larger == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        scratch->large = larger;
        scratch->large_size = size;
    }
    return scratch->large;
}

static PyObject *
text_of(const Frame *frame, Scratch *scratch)
{
    const byte *text = frame->payload;
    if (frame->key != NULL) {
        byte *unmasked = scratch_for(scratch, frame->length);
        if (unmasked == NULL) {
            return NULL;
        }
        mask_copy(unmasked, text, (size_t)frame->length, frame->key);
        text = unmasked;
    }
    return PyUnicode_DecodeUTF8((const char *)text, frame->length, "strict");
}

static PyObject *
payload_of(const Frame *frame)
{
    if (frame->key == NULL) {
        return PyBytes_FromStringAndSize((const char *)frame->payload, frame->length);
    }
    PyObject *message = PyBytes_FromStringAndSize(NULL, frame->length);
    if (message != NULL) {
        mask_copy((byte *)PyBytes_AsString(message), frame->payload, (size_t)frame->length,
                  frame->key);
    }
    return message;
}

/* Appends the messages between *position* and *end*, as long as they are simple. Leaves where it
   came to in *position* and what is left of the limit in *limit*. */
static int
append_messages(PyObject *messages, const byte *wire, Py_ssize_t *position, Py_ssize_t end,
                int masked, Py_ssize_t max_size, Py_ssize_t *limit, Scratch *scratch)
{
    Frame frame;
    while (*limit > 0) {
        const Py_ssize_t size = read_frame(wire + *position, end - *position, masked, 0, &frame);
        if (size == 0 || frame.length > max_size) {
            break;
        }
        PyObject *message =
            frame.first == WHOLE_TEXT ? text_of(&frame, scratch) : payload_of(&frame);
        if (message == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
                return 0;
            }
            PyErr_Clear();
            break;
        }
        const int failed = PyList_Append(messages, message) < 0;
        Py_DECREF(message);
        if (failed) {
            return 0;
        }
        *position += size;
        *limit -= FRAME_COST + frame.length;
    }
    return 1;
}

/* Gets the buffer of *argument*, if *position* and *end* are within it. */
static int
get_wire(PyObject *argument, Py_ssize_t position, Py_ssize_t end, Py_buffer *buffer)
{
    if (PyObject_GetBuffer(argument, buffer, PyBUF_SIMPLE) < 0) {
        return 0;
    }
    const int is_inside = 0 <= position && position <= end && end <= buffer->len;
    if (!is_inside) {
        PyErr_SetString(PyExc_ValueError, "position and end must be within the buffer");
        PyBuffer_Release(buffer);
    }
    return is_inside;
}

PyDoc_STRVAR(decode_messages_doc,
             "decode_messages($module, buffer, position, end, masked, max_size, limit, /)\n--\n\n"
             "As trio_ws._frames.pure_decode_messages.");

static PyObject *
decode_messages(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    Py_ssize_t position, end, limit, max_size = PY_SSIZE_T_MAX;
    Py_buffer buffer;
    Scratch scratch;
    PyObject *result = NULL;
    scratch.large = NULL;
    scratch.large_size = 0;
    if (!check_count("decode_messages", count, 6, 6) || !get_size(arguments[1], &position) ||
        !get_size(arguments[2], &end) ||
        (arguments[4] != Py_None && !get_bound(arguments[4], &max_size)) ||
        !get_size(arguments[5], &limit)) {
        return NULL;
    }
    const int masked = PyObject_IsTrue(arguments[3]);
    if (masked < 0 || !get_wire(arguments[0], position, end, &buffer)) {
        return NULL;
    }
    PyObject *messages = PyList_New(0);
    if (messages != NULL && append_messages(messages, buffer.buf, &position, end, masked, max_size,
                                            &limit, &scratch)) {
        result = Py_BuildValue("(Onn)", messages, position, limit);
    }
    Py_XDECREF(messages);
    PyMem_Free(scratch.large);
    PyBuffer_Release(&buffer);
    return result;
}

PyDoc_STRVAR(decode_compressed_doc,
             "decode_compressed($module, buffer, position, end, masked, /)\n--\n\n"
             "As trio_ws._frames.pure_decode_compressed.");

static PyObject *
decode_compressed(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    Py_ssize_t position, end;
    Py_buffer buffer;
    Frame frame;
    PyObject *result = NULL;
    if (!check_count("decode_compressed", count, 4, 4) || !get_size(arguments[1], &position) ||
        !get_size(arguments[2], &end)) {
        return NULL;
    }
    const int masked = PyObject_IsTrue(arguments[3]);
    if (masked < 0 || !get_wire(arguments[0], position, end, &buffer)) {
        return NULL;
    }
    const Py_ssize_t size = read_frame((const byte *)buffer.buf + position, end - position, masked,
                                       RSV1_BIT, &frame);
    if (size == 0) {
        result = Py_NewRef(Py_None);
    }
    else {
        PyObject *payload = payload_of(&frame);
        if (payload != NULL) {
            result = Py_BuildValue("(iNn)", frame.first & OPCODE_BITS, payload, position + size);
        }
    }
    PyBuffer_Release(&buffer);
    return result;
}

PyDoc_STRVAR(parse_header_doc, "parse_header($module, buffer, position, end, /)\n--\n\n"
                               "As trio_ws._frames.pure_parse_header.");

static PyObject *
parse_header(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    Py_ssize_t position, end;
    Py_buffer buffer;
    Header header;
    PyObject *result;
    if (!check_count("parse_header", count, 3, 3) || !get_size(arguments[1], &position) ||
        !get_size(arguments[2], &end) || !get_wire(arguments[0], position, end, &buffer)) {
        return NULL;
    }
    if (read_header((const byte *)buffer.buf + position, end - position, &header)) {
        /* y# makes None of NULL. */
        result = Py_BuildValue("(iy#KOn)", header.first, (const char *)header.key,
                               (Py_ssize_t)KEY_SIZE, (unsigned long long)header.length,
                               header.is_minimal ? Py_True : Py_False, header.size);
    }
    else {
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&buffer);
    return result;
}

/* The module */

#define FUNCTION(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, name##_doc}

static PyMethodDef functions[] = {
    FUNCTION(apply_mask),
    FUNCTION(decode_compressed),
    FUNCTION(decode_messages),
    FUNCTION(mask_in_place),
    FUNCTION(pack_frame),
    FUNCTION(pack_header),
    FUNCTION(pack_messages),
    FUNCTION(parse_header),
    FUNCTION(validate_utf8),
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
