import CoreTransferable
import Foundation
import PhotosUI
import SwiftUI
import UIKit
import UniformTypeIdentifiers

/// A button that picks a video from the photo library; `picked` gets a copy of it.
struct VideoPicker: View {
    let picked: (URL) -> Void
    @State private var item: PhotosPickerItem?
    @State private var failure: Failure?

    var body: some View {
        // The current encoding: a conversion would change the pixels that the model sees.
        PhotosPicker(selection: $item, matching: .videos, preferredItemEncoding: .current) {
            Image(systemName: "photo.on.rectangle").accessibilityLabel("Choose a video")
        }
        .onChange(of: item) { _, item in
            guard let item else { return }
            self.item = nil
            Task {
                do {
                    if let video = try await item.loadTransferable(type: PickedVideo.self) { picked(video.file) }
                } catch {
                    failure = Failure(error)
                }
            }
        }
        .sheet(item: $failure) { FailureView(failure: $0) }
    }
}

/// A video as the photo library hands it over: copied, since its own file is gone afterwards.
private struct PickedVideo: Transferable {
    let file: URL

    static var transferRepresentation: some TransferRepresentation {
        FileRepresentation(importedContentType: .movie) { received in PickedVideo(file: try VideoFolder.take(received.file)) }
    }
}

/// The app's copy of the video that is asked about: one at a time, in the folder for temporary files.
enum VideoFolder {
    /// Copies a video and removes the one before.
    static func take(_ video: URL) throws -> URL {
        let folder = FileManager.default.temporaryDirectory.appending(path: "video", directoryHint: .isDirectory)
        try? FileManager.default.removeItem(at: folder)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let copy = folder.appending(path: "\(UUID().uuidString).\(video.pathExtension)")
        try FileManager.default.copyItem(at: video, to: copy)
        return copy
    }
}

/// The camera, for a video of up to a minute.
struct CameraPicker: UIViewControllerRepresentable {
    let recorded: (URL) -> Void
    @Environment(\.dismiss) private var dismiss

    static var isAvailable: Bool { UIImagePickerController.isSourceTypeAvailable(.camera) }

    func makeCoordinator() -> Coordinator { Coordinator(self) }

    func makeUIViewController(context: Context) -> UIImagePickerController {
        let picker = UIImagePickerController()
        picker.sourceType = .camera
        picker.mediaTypes = [UTType.movie.identifier]
        picker.videoQuality = .typeHigh
        picker.videoMaximumDuration = 60
        picker.delegate = context.coordinator
        return picker
    }

    func updateUIViewController(_ picker: UIImagePickerController, context: Context) {}

    final class Coordinator: NSObject, UIImagePickerControllerDelegate, UINavigationControllerDelegate {
        private let parent: CameraPicker

        init(_ parent: CameraPicker) { self.parent = parent }

        func imagePickerController(
            _ picker: UIImagePickerController, didFinishPickingMediaWithInfo info: [UIImagePickerController.InfoKey: Any]
        ) {
            parent.dismiss()
            if let video = info[.mediaURL] as? URL { parent.recorded(video) }
        }

        func imagePickerControllerDidCancel(_ picker: UIImagePickerController) { parent.dismiss() }
    }
}
