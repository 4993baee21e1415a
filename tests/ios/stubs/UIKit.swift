// Signatures of UIKit that the app uses.

@_exported import CoreGraphics
@_exported import Foundation

@MainActor open class UIResponder: NSObject {  // objc: class UIResponder
    public nonisolated override init() { fatalError() }  // swift: of every class
}

@MainActor open class UIViewController: UIResponder {}  // objc: class UIViewController

@MainActor open class UINavigationController: UIViewController {}  // objc: class UINavigationController

@MainActor open class UIApplication: UIResponder {  // objc: class UIApplication
    public class var shared: UIApplication { fatalError() }  // objc: sharedApplication
    public var isIdleTimerDisabled: Bool { get { fatalError() } set { fatalError() } }  // objc: idleTimerDisabled
    public nonisolated class var didReceiveMemoryWarningNotification: NSNotification.Name { fatalError() }  // objc: constant UIApplicationDidReceiveMemoryWarningNotification
}

@MainActor public protocol UINavigationControllerDelegate: AnyObject {}  // objc: protocol UINavigationControllerDelegate

@MainActor public protocol UIImagePickerControllerDelegate: AnyObject {  // objc: protocol UIImagePickerControllerDelegate
    func imagePickerController(_ picker: UIImagePickerController, didFinishPickingMediaWithInfo info: [UIImagePickerController.InfoKey: Any])  // objc: -imagePickerController:didFinishPickingMediaWithInfo:
    func imagePickerControllerDidCancel(_ picker: UIImagePickerController)  // objc: -imagePickerControllerDidCancel:
}

@MainActor open class UIImagePickerController: UINavigationController {  // objc: class UIImagePickerController
    public class func isSourceTypeAvailable(_ sourceType: SourceType) -> Bool { fatalError() }  // objc: +isSourceTypeAvailable:
    public weak var delegate: (any UIImagePickerControllerDelegate & UINavigationControllerDelegate)? { get { fatalError() } set { fatalError() } }  // objc: delegate
    public var sourceType: SourceType { get { fatalError() } set { fatalError() } }  // objc: sourceType
    public var mediaTypes: [String] { get { fatalError() } set { fatalError() } }  // objc: mediaTypes
    public var videoQuality: QualityType { get { fatalError() } set { fatalError() } }  // objc: videoQuality
    public var videoMaximumDuration: TimeInterval { get { fatalError() } set { fatalError() } }  // objc: videoMaximumDuration
    public enum SourceType: Int, Sendable {  // objc: enum UIImagePickerControllerSourceType
        case camera = 1  // objc: UIImagePickerControllerSourceType.Camera
    }
    public enum QualityType: Int, Sendable {  // objc: enum UIImagePickerControllerQualityType
        case typeHigh = 0  // objc: UIImagePickerControllerQualityType.TypeHigh
    }
    public struct InfoKey: Hashable, Sendable {  // swift: an imported string type
        public static var mediaURL: InfoKey { fatalError() }  // objc: constant UIImagePickerControllerMediaURL
    }
}
