import UIKit

/// Keeps the screen on while work runs: iOS would put the phone to sleep, and stop the work, after a minute or less without a touch.
@MainActor
enum Awake {
    private static var holders = 0

    /// Every call needs one of `end`.
    static func begin() {
        holders += 1
        UIApplication.shared.isIdleTimerDisabled = true
    }

    static func end() {
        holders -= 1
        UIApplication.shared.isIdleTimerDisabled = holders > 0
    }
}
