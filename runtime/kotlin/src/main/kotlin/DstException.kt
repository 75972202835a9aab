package dst

/** One value for each way to react to an error, in the order of `dst_status`. */
enum class Status {
    OK,

    /** The call itself was wrong. */
    ARGUMENT,

    /** The bundle is broken or cannot be read. */
    BUNDLE,

    /** The bundle cannot be run here as asked. */
    SESSION,

    /** A step was refused or failed. */
    STEP,

    /** A value is NaN or infinite. */
    NOT_FINITE,

    /** The input ended inside a chunk, and the tail rule of the model is `refuse`. */
    PARTIAL_CHUNK,

    /** The call did not finish in time. */
    DEADLINE,

    /** [Stream.cancel] ended the call. */
    CANCELLED,

    /** A saved state cannot be read or written. */
    STATE,
    STATE_NOT_FOUND,

    /** The bytes of a saved state are not those that were written. */
    STATE_CORRUPT,

    /** A saved state belongs to another model, layout, precision or version. */
    STATE_MISMATCH,

    /** No memory is left. */
    MEMORY,

    /** A fault of the library. */
    INTERNAL,
}

/**
 * A call was refused or failed. The stream is then as it was before the call.
 *
 * @property status how to react.
 * @property code the code of FORMAT.md, such as `file-hash`; it never changes.
 * @property tokens what [Stream.generate] had made before it failed; the stream stands behind them.
 */
class DstException(val status: Status, val code: String, message: String, val tokens: LongArray = LongArray(0)) :
    RuntimeException(message)
