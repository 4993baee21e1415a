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
                    model.memoryWarning()
                }
        }
        .onChange(of: scenePhase) { _, phase in
            switch phase {
            case .background: model.enteredBackground()
            case .active: model.becameActive()
            case .inactive: break
            @unknown default: break
            }
        }
    }
}
