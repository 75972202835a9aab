// The one header of the C module: the native runtime's own.
#include "../../../native/include/dst.h"
