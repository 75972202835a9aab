// The sample app. It compiles the Kotlin package and the JNI library from their sources beside it.
plugins {
    id("com.android.application") version "8.13.0"
    kotlin("android") version "2.4.20"
    kotlin("plugin.compose") version "2.4.20"
}

/** ONNX Runtime for Android, with its C headers: its AAR is unpacked for CMake. */
val onnxRuntime = "com.microsoft.onnxruntime:onnxruntime-android:1.31.0"
val aar: Configuration by configurations.creating { isTransitive = false }
val unpacked = layout.buildDirectory.dir("onnxruntime").get().asFile

val unpackOnnxRuntime by tasks.registering(Copy::class) {
    from({ zipTree(aar.singleFile) })
    into(unpacked)
}
tasks.configureEach { if (name.startsWith("configureCMake")) dependsOn(unpackOnnxRuntime) }

android {
    namespace = "dst.sample"
    compileSdk = 36
    defaultConfig {
        applicationId = "dst.sample"
        minSdk = 24
        targetSdk = 36
        ndk { abiFilters += "arm64-v8a" }
        externalNativeBuild {
            cmake {
                // vcpkg brings nlohmann-json, xxHash and OpenSSL; see README.md.
                val vcpkg = providers.gradleProperty("vcpkg").get()
                arguments(
                    "-DONNXRUNTIME_AAR=$unpacked",
                    "-DCMAKE_TOOLCHAIN_FILE=$vcpkg/scripts/buildsystems/vcpkg.cmake",
                    "-DVCPKG_CHAINLOAD_TOOLCHAIN_FILE=${android.ndkDirectory}/build/cmake/android.toolchain.cmake",
                    "-DVCPKG_TARGET_TRIPLET=arm64-android",
                )
                targets("dst_jni")
            }
        }
    }
    externalNativeBuild { cmake { path = file("../CMakeLists.txt") } }
    sourceSets["main"].kotlin.srcDirs("src/main/kotlin", "../src/main/kotlin")
    buildFeatures { compose = true }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

kotlin { jvmToolchain(17) }

dependencies {
    aar("$onnxRuntime@aar")
    implementation(onnxRuntime) // brings libonnxruntime.so into the app
    implementation(platform("androidx.compose:compose-bom:2025.10.00"))
    implementation("androidx.compose.material3:material3")
    implementation("androidx.activity:activity-compose:1.11.0")
    implementation("androidx.lifecycle:lifecycle-viewmodel-compose:2.9.4")
}
