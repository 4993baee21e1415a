import CoreML

/// Which units of the device Core ML may use. The raw values are those of `--compute-units` of the Python commands.
enum ComputeUnits: String, CaseIterable, Identifiable, Sendable {
    case all
    case cpu
    case cpuGPU = "cpu-gpu"
    case cpuANE = "cpu-ane"

    var id: String { rawValue }

    var units: MLComputeUnits {
        switch self {
        case .all: .all
        case .cpu: .cpuOnly
        case .cpuGPU: .cpuAndGPU
        case .cpuANE: .cpuAndNeuralEngine
        }
    }

    var title: String {
        switch self {
        case .all: "All units"
        case .cpu: "CPU"
        case .cpuGPU: "CPU and GPU"
        case .cpuANE: "CPU and Neural Engine"
        }
    }
}
