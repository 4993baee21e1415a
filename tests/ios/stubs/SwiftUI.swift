// Signatures of SwiftUI that the app uses, as simple as type checks allow. SwiftUI has no Objective-C API to check them against.

@_exported import CoreGraphics
@_exported import Observation
import Foundation
import UIKit

// Views and builders.

@MainActor @preconcurrency public protocol View {
    associatedtype Body: View
    @ViewBuilder @MainActor @preconcurrency var body: Body { get }
}

extension Never: View {
    public var body: Never { fatalError() }
}

@MainActor public protocol Primitive: View where Body == Never {}

extension Primitive {
    public var body: Never { fatalError() }
}

@resultBuilder public struct ViewBuilder {
    public static func buildBlock() -> EmptyView { fatalError() }
    public static func buildBlock<Content: View>(_ content: Content) -> Content { fatalError() }
    public static func buildBlock<each Content: View>(_ content: repeat each Content) -> TupleView<(repeat each Content)> { fatalError() }
    public static func buildExpression<Content: View>(_ content: Content) -> Content { fatalError() }
    public static func buildIf<Content: View>(_ content: Content?) -> Content? { fatalError() }
    public static func buildEither<A: View, B: View>(first: A) -> ConditionalContent<A, B> { fatalError() }
    public static func buildEither<A: View, B: View>(second: B) -> ConditionalContent<A, B> { fatalError() }
}

extension Optional: View where Wrapped: View {
    public var body: Never { fatalError() }
}

public struct EmptyView: Primitive { public init() {} }
public struct TupleView<T>: Primitive {}
public struct ConditionalContent<A, B>: Primitive {}
public struct ModifiedContent<Content>: Primitive {}

// The app.

@MainActor @preconcurrency public protocol App {
    associatedtype Body: Scene
    @SceneBuilder @MainActor @preconcurrency var body: Body { get }
    @MainActor @preconcurrency init()
}

extension App {
    @MainActor public static func main() { fatalError() }
}

@MainActor @preconcurrency public protocol Scene {}

@resultBuilder public struct SceneBuilder {
    public static func buildBlock<Content: Scene>(_ content: Content) -> Content { fatalError() }
}

public struct WindowGroup<Content: View>: Scene {
    public init(@ViewBuilder content: () -> Content) { fatalError() }
}

public struct ChangedScene: Scene {}

extension Scene {
    public func onChange<V: Equatable>(of value: V, initial: Bool = false, _ action: @escaping (V, V) -> Void) -> some Scene { ChangedScene() }
}

public enum ScenePhase: Comparable, Sendable { case background, inactive, active }

// State.

@propertyWrapper public struct State<Value> {
    public init(wrappedValue: Value) { fatalError() }
    public var wrappedValue: Value { get { fatalError() } nonmutating set { fatalError() } }
    public var projectedValue: Binding<Value> { fatalError() }
}

extension State where Value: ExpressibleByNilLiteral {
    public init() { fatalError() }
}

@propertyWrapper @dynamicMemberLookup public struct Binding<Value> {
    public init(get: @escaping @Sendable () -> Value, set: @escaping @Sendable (Value) -> Void) { fatalError() }
    public init(projectedValue: Binding<Value>) { fatalError() }
    public var wrappedValue: Value { get { fatalError() } nonmutating set { fatalError() } }
    public var projectedValue: Binding<Value> { self }
    public subscript<Subject>(dynamicMember keyPath: WritableKeyPath<Value, Subject>) -> Binding<Subject> { fatalError() }
}

@propertyWrapper @dynamicMemberLookup public struct Bindable<Value> {
    public init(wrappedValue: Value) where Value: AnyObject & Observable { fatalError() }
    public var wrappedValue: Value { get { fatalError() } set { fatalError() } }
    public var projectedValue: Bindable<Value> { self }
    public subscript<Subject>(dynamicMember keyPath: ReferenceWritableKeyPath<Value, Subject>) -> Binding<Subject> where Value: AnyObject { fatalError() }
}

@propertyWrapper public struct Environment<Value> {
    public init(_ keyPath: KeyPath<EnvironmentValues, Value>) { fatalError() }
    public init(_ type: Value.Type) where Value: AnyObject & Observable { fatalError() }
    public var wrappedValue: Value { fatalError() }
}

@propertyWrapper public struct AppStorage<Value> {
    public init(wrappedValue: Value, _ key: String) where Value == String { fatalError() }
    public init(wrappedValue: Value, _ key: String) where Value == Double { fatalError() }
    public init(wrappedValue: Value, _ key: String) where Value == Int { fatalError() }
    public var wrappedValue: Value { get { fatalError() } nonmutating set { fatalError() } }
    public var projectedValue: Binding<Value> { fatalError() }
}

public struct EnvironmentValues {
    public var scenePhase: ScenePhase { fatalError() }
    public var dismiss: DismissAction { fatalError() }
}

@MainActor @preconcurrency public struct DismissAction {
    public func callAsFunction() { fatalError() }
}

// Layout and containers.

public struct VStack<Content: View>: Primitive {
    public init(alignment: HorizontalAlignment = .center, spacing: CGFloat? = nil, @ViewBuilder content: () -> Content) { fatalError() }
}

public struct HStack<Content: View>: Primitive {
    public init(alignment: VerticalAlignment = .center, spacing: CGFloat? = nil, @ViewBuilder content: () -> Content) { fatalError() }
}

public struct LazyVStack<Content: View>: Primitive {
    public init(alignment: HorizontalAlignment = .center, spacing: CGFloat? = nil, @ViewBuilder content: () -> Content) { fatalError() }
}

public struct LazyHStack<Content: View>: Primitive {
    public init(alignment: VerticalAlignment = .center, spacing: CGFloat? = nil, @ViewBuilder content: () -> Content) { fatalError() }
}

public struct ScrollView<Content: View>: Primitive {
    public init(_ axes: Axis.Set = .vertical, @ViewBuilder content: () -> Content) { fatalError() }
}

public struct ScrollViewReader<Content: View>: Primitive {
    public init(@ViewBuilder content: @escaping (ScrollViewProxy) -> Content) { fatalError() }
}

public struct ScrollViewProxy {
    public func scrollTo<ID: Hashable>(_ id: ID, anchor: UnitPoint? = nil) { fatalError() }
}

public struct List<Content: View>: Primitive {
    public init(@ViewBuilder content: () -> Content) { fatalError() }
}

public struct Form<Content: View>: Primitive {
    public init(@ViewBuilder content: () -> Content) { fatalError() }
}

public struct NavigationStack<Root: View>: Primitive {
    public init(@ViewBuilder root: () -> Root) { fatalError() }
}

public struct Section<Parent, Content, Footer> {}

extension Section: View where Parent: View, Content: View, Footer: View {
    public var body: Never { fatalError() }
}

extension Section where Parent == Text, Content: View, Footer == EmptyView {
    public init(_ titleKey: LocalizedStringKey, @ViewBuilder content: () -> Content) { fatalError() }
}

extension Section where Parent == EmptyView, Content: View, Footer == EmptyView {
    public init(@ViewBuilder content: () -> Content) { fatalError() }
}

extension Section where Parent == EmptyView, Content: View, Footer: View {
    public init(@ViewBuilder content: () -> Content, @ViewBuilder footer: () -> Footer) { fatalError() }
}

public struct ForEach<Data: RandomAccessCollection, ID: Hashable, Content: View>: Primitive {
    public init(_ data: Data, @ViewBuilder content: @escaping (Data.Element) -> Content) where Data.Element: Identifiable, ID == Data.Element.ID { fatalError() }
    public init(_ data: Data, id: KeyPath<Data.Element, ID>, @ViewBuilder content: @escaping (Data.Element) -> Content) { fatalError() }
}

public struct Menu<Label: View, Content: View>: Primitive {
    public init(@ViewBuilder content: () -> Content, @ViewBuilder label: () -> Label) { fatalError() }
}

public struct LabeledContent<Label: View, Content: View>: Primitive {
    public init<S: StringProtocol>(_ title: S, @ViewBuilder content: () -> Content) where Label == Text { fatalError() }
}

public struct ContentUnavailableView<Label: View, Description: View, Actions: View>: Primitive {
    public init(@ViewBuilder label: () -> Label, @ViewBuilder description: () -> Description, @ViewBuilder actions: () -> Actions) { fatalError() }
}

// Things to see and to touch.

public struct LocalizedStringKey: ExpressibleByStringInterpolation { public init(stringLiteral value: String) {} }

public struct Text: Primitive {
    public init(_ key: LocalizedStringKey) { fatalError() }
    @_disfavoredOverload public init<S: StringProtocol>(_ content: S) { fatalError() }
}

public struct Image: Primitive {
    public init(systemName: String) { fatalError() }
    public init(decorative cgImage: CGImage, scale: CGFloat, orientation: Orientation = .up) { fatalError() }
    public func resizable() -> Image { fatalError() }
    public enum Orientation: Sendable { case up }
}

public struct Label<Title: View, Icon: View>: Primitive {}

extension Label where Title == Text, Icon == Image {
    public init(_ titleKey: LocalizedStringKey, systemImage name: String) { fatalError() }
    @_disfavoredOverload public init<S: StringProtocol>(_ title: S, systemImage name: String) { fatalError() }
}

public struct ButtonRole: Sendable, Equatable {
    public static let destructive = ButtonRole()
    public static let cancel = ButtonRole()
}

public struct Button<Label: View>: Primitive {
    public init(action: @escaping @MainActor () -> Void, @ViewBuilder label: () -> Label) { fatalError() }
}

extension Button where Label == Text {
    public init(_ titleKey: LocalizedStringKey, action: @escaping @MainActor () -> Void) { fatalError() }
    public init(_ titleKey: LocalizedStringKey, role: ButtonRole?, action: @escaping @MainActor () -> Void) { fatalError() }
}

public struct TextField: Primitive {
    public init(_ titleKey: LocalizedStringKey, text: Binding<String>) { fatalError() }
    @_disfavoredOverload public init<S: StringProtocol>(_ title: S, text: Binding<String>, axis: Axis) { fatalError() }
    public init(_ titleKey: LocalizedStringKey, text: Binding<String>, axis: Axis) { fatalError() }
}

public struct Picker<Selection: Hashable, Content: View>: Primitive {
    public init(_ titleKey: LocalizedStringKey, selection: Binding<Selection>, @ViewBuilder content: () -> Content) { fatalError() }
}

public struct Slider: Primitive {
    public init<V: BinaryFloatingPoint>(value: Binding<V>, in bounds: ClosedRange<V>, step: V.Stride = 1, onEditingChanged: @escaping (Bool) -> Void = { _ in }) where V.Stride: BinaryFloatingPoint { fatalError() }
}

public struct Stepper: Primitive {
    public init<V: Strideable>(_ titleKey: LocalizedStringKey, value: Binding<V>, in bounds: ClosedRange<V>, step: V.Stride = 1) { fatalError() }
}

public struct ProgressView: Primitive {
    public init() { fatalError() }
    public init(_ titleKey: LocalizedStringKey) { fatalError() }
    public init<V: BinaryFloatingPoint>(value: V?, total: V = 1.0) { fatalError() }
}

public struct ShareLink<Label: View>: Primitive {
    public init(item: URL, @ViewBuilder label: () -> Label) { fatalError() }
}

// Toolbars.

@MainActor @preconcurrency public protocol ToolbarContent {}

@resultBuilder public struct ToolbarContentBuilder {
    public static func buildBlock<each Content: ToolbarContent>(_ content: repeat each Content) -> ToolbarTuple { fatalError() }
    public static func buildExpression<Content: ToolbarContent>(_ content: Content) -> Content { fatalError() }
}

public struct ToolbarTuple: ToolbarContent {}

public struct ToolbarItem<Content: View>: ToolbarContent {
    public init(placement: ToolbarItemPlacement = .automatic, @ViewBuilder content: () -> Content) { fatalError() }
}

public struct ToolbarItemPlacement: Sendable {
    public static let automatic = ToolbarItemPlacement()
    public static let cancellationAction = ToolbarItemPlacement()
    public static let topBarLeading = ToolbarItemPlacement()
    public static let topBarTrailing = ToolbarItemPlacement()
}

// Modifiers' values.

public enum Axis: Sendable {
    case horizontal, vertical
    public struct Set: OptionSet, Sendable {
        public let rawValue: Int8
        public init(rawValue: Int8) { self.rawValue = rawValue }
        public static let horizontal = Set(rawValue: 1)
        public static let vertical = Set(rawValue: 2)
    }
}

public struct HorizontalAlignment: Sendable {
    public static let center = HorizontalAlignment()
    public static let leading = HorizontalAlignment()
}

public struct VerticalAlignment: Sendable { public static let center = VerticalAlignment() }

public struct Alignment: Sendable {
    public static let center = Alignment()
    public static let topTrailing = Alignment()
}

public struct UnitPoint: Sendable { public static let bottom = UnitPoint() }

public enum TextAlignment: Sendable { case leading, center, trailing }

public struct Font: Sendable {
    public static let headline = Font()
    public static let callout = Font()
    public static let caption = Font()
    public static let caption2 = Font()
}

public protocol ShapeStyle: Sendable {}

public struct Color: ShapeStyle, Primitive {
    public nonisolated init() {}
}

public struct HierarchicalShapeStyle: ShapeStyle {}

extension ShapeStyle where Self == Color {
    public static var orange: Color { Color() }
    public static var yellow: Color { Color() }
    public static var green: Color { Color() }
    public static var red: Color { Color() }
}

extension ShapeStyle where Self == HierarchicalShapeStyle {
    public static var secondary: HierarchicalShapeStyle { HierarchicalShapeStyle() }
}

public struct BorderedProminentButtonStyle { public init() {} }
public protocol PrimitiveButtonStyle {}
extension BorderedProminentButtonStyle: PrimitiveButtonStyle {}
extension PrimitiveButtonStyle where Self == BorderedProminentButtonStyle {
    public static var borderedProminent: BorderedProminentButtonStyle { BorderedProminentButtonStyle() }
}

public protocol TextFieldStyle {}
public struct RoundedBorderTextFieldStyle: TextFieldStyle { public init() {} }
extension TextFieldStyle where Self == RoundedBorderTextFieldStyle {
    public static var roundedBorder: RoundedBorderTextFieldStyle { RoundedBorderTextFieldStyle() }
}

public protocol TextSelectability {}
public struct EnabledTextSelectability: TextSelectability { public init() {} }
extension TextSelectability where Self == EnabledTextSelectability {
    public static var enabled: EnabledTextSelectability { EnabledTextSelectability() }
}

public struct PresentationDetent: Hashable, Sendable {
    public static let medium = PresentationDetent()
}

public struct TextInputAutocapitalization: Sendable { public static var never: TextInputAutocapitalization { TextInputAutocapitalization() } }
public enum UIKeyboardType: Sendable { case URL }
public enum NavigationBarItem { public enum TitleDisplayMode: Sendable { case inline } }
public struct AccessibilityChildBehavior: Sendable { public static let ignore = AccessibilityChildBehavior() }

public struct EdgeSet: OptionSet, Sendable {
    public let rawValue: Int8
    public init(rawValue: Int8) { self.rawValue = rawValue }
    public static let all = EdgeSet(rawValue: 15)
    public static let horizontal = EdgeSet(rawValue: 5)
}

// Modifiers.

@MainActor extension View {
    public func padding(_ length: CGFloat) -> some View { ModifiedContent<Self>() }
    public func padding(_ edges: EdgeSet = .all, _ length: CGFloat? = nil) -> some View { ModifiedContent<Self>() }
    public func frame(width: CGFloat? = nil, height: CGFloat? = nil, alignment: Alignment = .center) -> some View { ModifiedContent<Self>() }
    public func font(_ font: Font?) -> some View { ModifiedContent<Self>() }
    public func foregroundStyle<S: ShapeStyle>(_ style: S) -> some View { ModifiedContent<Self>() }
    public func multilineTextAlignment(_ alignment: TextAlignment) -> some View { ModifiedContent<Self>() }
    public func textSelection<S: TextSelectability>(_ selectability: S) -> some View { ModifiedContent<Self>() }
    public func monospacedDigit() -> some View { ModifiedContent<Self>() }
    public func lineLimit(_ limit: ClosedRange<Int>) -> some View { ModifiedContent<Self>() }
    public func scaledToFit() -> some View { ModifiedContent<Self>() }
    public func overlay<V: View>(alignment: Alignment = .center, @ViewBuilder content: () -> V) -> some View { ModifiedContent<Self>() }
    public func ignoresSafeArea() -> some View { ModifiedContent<Self>() }
    public func disabled(_ disabled: Bool) -> some View { ModifiedContent<Self>() }
    public func buttonStyle<S: PrimitiveButtonStyle>(_ style: S) -> some View { ModifiedContent<Self>() }
    public func textFieldStyle<S: TextFieldStyle>(_ style: S) -> some View { ModifiedContent<Self>() }
    public func keyboardType(_ type: UIKeyboardType) -> some View { ModifiedContent<Self>() }
    public func textInputAutocapitalization(_ autocapitalization: TextInputAutocapitalization?) -> some View { ModifiedContent<Self>() }
    public func autocorrectionDisabled(_ disable: Bool = true) -> some View { ModifiedContent<Self>() }
    public func tag<V: Hashable>(_ tag: V) -> some View { ModifiedContent<Self>() }
    public func id<ID: Hashable>(_ id: ID) -> some View { ModifiedContent<Self>() }
    public func navigationTitle(_ titleKey: LocalizedStringKey) -> some View { ModifiedContent<Self>() }
    @_disfavoredOverload public func navigationTitle<S: StringProtocol>(_ title: S) -> some View { ModifiedContent<Self>() }
    public func navigationBarTitleDisplayMode(_ displayMode: NavigationBarItem.TitleDisplayMode) -> some View { ModifiedContent<Self>() }
    public func toolbar<Content: ToolbarContent>(@ToolbarContentBuilder content: () -> Content) -> some View { ModifiedContent<Self>() }
    public func swipeActions<T: View>(@ViewBuilder content: () -> T) -> some View { ModifiedContent<Self>() }
    public func sheet<Item: Identifiable, Content: View>(item: Binding<Item?>, onDismiss: (() -> Void)? = nil, @ViewBuilder content: @escaping (Item) -> Content) -> some View { ModifiedContent<Self>() }
    public func sheet<Content: View>(isPresented: Binding<Bool>, onDismiss: (() -> Void)? = nil, @ViewBuilder content: @escaping () -> Content) -> some View { ModifiedContent<Self>() }
    public func presentationDetents(_ detents: Set<PresentationDetent>) -> some View { ModifiedContent<Self>() }
    public func task(priority: TaskPriority = .userInitiated, @_inheritActorContext _ action: @escaping @Sendable () async -> Void) -> some View { ModifiedContent<Self>() }
    public func refreshable(@_inheritActorContext action: @escaping @Sendable () async -> Void) -> some View { ModifiedContent<Self>() }
    public func onChange<V: Equatable>(of value: V, initial: Bool = false, _ action: @escaping (V, V) -> Void) -> some View { ModifiedContent<Self>() }
    public func onDisappear(perform action: (() -> Void)? = nil) -> some View { ModifiedContent<Self>() }
    public func onSubmit(_ action: @escaping () -> Void) -> some View { ModifiedContent<Self>() }
    public func onReceive(_ publisher: NotificationCenter.Publisher, perform action: @escaping (Notification) -> Void) -> some View { ModifiedContent<Self>() }
    public func environment<T: AnyObject & Observable>(_ object: T?) -> some View { ModifiedContent<Self>() }
    public func accessibilityLabel(_ labelKey: LocalizedStringKey) -> some View { ModifiedContent<Self>() }
    public func accessibilityElement(children: AccessibilityChildBehavior = .ignore) -> some View { ModifiedContent<Self>() }
}

// Of Combine, which SwiftUI brings along.

extension NotificationCenter {
    public struct Publisher {}
    public func publisher(for name: Notification.Name, object: AnyObject? = nil) -> Publisher { fatalError() }
}

// UIKit inside.

@MainActor @preconcurrency public protocol UIViewControllerRepresentable: View where Body == Never {
    associatedtype UIViewControllerType: UIViewController
    associatedtype Coordinator = Void
    typealias Context = UIViewControllerRepresentableContext<Self>
    func makeUIViewController(context: Context) -> UIViewControllerType
    func updateUIViewController(_ uiViewController: UIViewControllerType, context: Context)
    func makeCoordinator() -> Coordinator
}

extension UIViewControllerRepresentable {
    public var body: Never { fatalError() }
}

@MainActor @preconcurrency public struct UIViewControllerRepresentableContext<Representable: UIViewControllerRepresentable> {
    public let coordinator: Representable.Coordinator
}
