package dst.sample

import android.app.Application
import android.os.Bundle
import android.os.Debug
import androidx.activity.ComponentActivity
import androidx.activity.compose.setContent
import androidx.activity.viewModels
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.safeDrawingPadding
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.material3.Button
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateListOf
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.dp
import androidx.lifecycle.AndroidViewModel
import androidx.lifecycle.viewModelScope
import java.io.File
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.launch
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext

private const val SAVE_EVERY_LINES = 50

class ReaderModel(private val app: Application) : AndroidViewModel(app) {
    val lines = mutableStateListOf<String>()
    var status by mutableStateOf("opening the bundle")
        private set
    private val turn = Mutex() // one line at a time
    private var reader: Reader? = null
    private var feeding: Job? = null

    init {
        viewModelScope.launch {
            reader = withContext(Dispatchers.IO) { Reader(unpackedBundle(), File(app.filesDir, "stream.state")) }
            report(if (reader!!.resumed) "resumed" else "started")
        }
    }

    fun read(line: String) = viewModelScope.launch { take(line) }

    /** Read made-up lines until it is called again: the memory shown stays as it is. */
    fun toggleFeed() {
        if (feeding?.isActive == true) {
            feeding?.cancel()
        } else {
            feeding = viewModelScope.launch {
                for (number in generateSequence(1) { it + 1 }) {
                    take("request $number answered in ${number * 37 % 90} ms")
                    if (number % SAVE_EVERY_LINES == 0) save() // what a kill of the app can lose
                }
            }
        }
    }

    /** Called when the app leaves the foreground; the system may kill it at any time after that. */
    fun save() {
        reader?.save()
    }

    override fun onCleared() {
        reader?.close()
    }

    private suspend fun take(line: String) = turn.withLock {
        val bits = reader?.read(line) ?: return
        lines.add(0, "%5.2f  %s".format(bits, line))
        if (lines.size > 200) lines.removeAt(lines.lastIndex)
        report("read")
    }

    private fun report(what: String) {
        val reader = reader ?: return
        val heap = Debug.getNativeHeapAllocatedSize() / 1024
        status = "$what: ${reader.bytesRead} bytes; native heap $heap KiB, of it a state ${reader.stateBytes / 1024} KiB"
    }

    /** Graphs are loaded by path, so the bundle of the assets is copied to a folder once. */
    private fun unpackedBundle(): File {
        val folder = File(app.filesDir, "bundle")
        if (!folder.isDirectory) {
            val part = File(app.filesDir, "bundle.part").apply { deleteRecursively() }.apply { mkdirs() }
            for (name in app.assets.list("bundle")!!) {
                app.assets.open("bundle/$name").use { from -> File(part, name).outputStream().use(from::copyTo) }
            }
            check(part.renameTo(folder)) { "cannot rename $part" }
        }
        return folder
    }
}

class MainActivity : ComponentActivity() {
    private val model: ReaderModel by viewModels()

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContent { Screen(model) }
    }

    override fun onStop() {
        model.save()
        super.onStop()
    }
}

@Composable
private fun Screen(model: ReaderModel) {
    var text by remember { mutableStateOf("") }
    Column(Modifier.safeDrawingPadding().padding(16.dp)) {
        Text(model.status)
        OutlinedTextField(text, { text = it }, Modifier.fillMaxWidth(), label = { Text("A line of text") })
        Row {
            Button({ model.read(text).also { text = "" } }) { Text("Read it") }
            Button(model::toggleFeed, Modifier.padding(start = 8.dp)) { Text("Feed, or stop") }
        }
        LazyColumn { items(model.lines) { Text(it) } }
    }
}
