import SwiftUI
import UIKit

@main
struct MobileVideoGPTApp: App {
    @Environment(\.scenePhase) private var scenePhase
    @State private var model = AppModel()

    init() { _ = Meter.started }

    var body: some Scene {
        WindowGroup {
            RootView()
                .environment(model)
                .onReceive(NotificationCenter.default.publisher(for: UIApplication.didReceiveMemoryWarningNotification)) { _ in
                    model.freeMemory()
                }
        }
        .onChange(of: scenePhase) { _, phase in
            if phase == .background { model.freeMemory() }
        }
    }
}
