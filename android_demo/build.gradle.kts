// Kotlin is built into the Android Gradle plugin from version 9 on.
plugins {
    alias(libs.plugins.android.application) apply false
    alias(libs.plugins.android.library) apply false
}
