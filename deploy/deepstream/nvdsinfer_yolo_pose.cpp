#include "nvdsinfer_yolo_pose.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <type_traits>

#ifndef FRAME_WIDTH  // of the stream muxer; CMakeLists.txt sets both
#define FRAME_WIDTH 1920
#define FRAME_HEIGHT 1080
#endif

namespace yolo_pose {
namespace {

// The output of this name and type; null and a line on stderr if the model has none.
const NvDsInferLayerInfo* find(const std::vector<NvDsInferLayerInfo>& layers, const char* name,
                               NvDsInferDataType type) {
    for (const auto& layer : layers)
        if (!layer.isInput && layer.dataType == type && !std::strcmp(layer.layerName, name))
            return &layer;
    std::fprintf(stderr, "yolo_pose: no output %s of type %s; export the model with --end2end\n",
                 name, type == INT32 ? "INT32" : "FP32");
    return nullptr;
}

struct Range {
    float low, high;
    float clip(float value) const { return std::min(std::max(value, low), high); }
};

// Where the frame lies along one side of the network input: gst-nvinfer scales it to whole pixels,
// rounded down, and pads both sides alike. A little less, against rounding errors.
Range visible(unsigned int side, double scaled) {
    const unsigned int size = std::min(static_cast<unsigned int>(scaled), side);
    const float margin = 1.0f / 64, offset = static_cast<float>((side - size) / 2);
    return {offset + margin, offset + size - margin};
}

}  // namespace

bool parse(const std::vector<NvDsInferLayerInfo>& layers, const NvDsInferNetworkInfo& network,
           const NvDsInferParseDetectionParams& params, FrameSize frame,
           std::vector<NvDsInferInstanceMaskInfo>& objects) {
    const auto* count = find(layers, "num_dets", INT32);
    const auto* indices = find(layers, "det_indices", INT32);
    const auto* boxes = find(layers, "det_boxes", FLOAT);
    const auto* poses = find(layers, "det_pose", FLOAT);
    const auto* scores = find(layers, "det_scores", FLOAT);
    if (!count || !indices || !boxes || !poses || !scores) return false;

    const unsigned int most = boxes->inferDims.numElements / 4;
    const unsigned int values = most ? poses->inferDims.numElements / most : 0;  // 3 K
    const unsigned int found = std::max(*static_cast<const int*>(count->buffer), 0);
    const double width = frame.width & ~1u, height = frame.height & ~1u;  // as gst-nvinfer crops it
    const double scale = std::min(network.width / width, network.height / height);
    const Range x = visible(network.width, width * scale);
    const Range y = visible(network.height, height * scale);

    for (unsigned int i = 0; i < std::min(found, most); i++) {
        const int index = static_cast<const int*>(indices->buffer)[3 * i + 1];  // image, class, row
        const auto label = static_cast<unsigned int>(index);
        const float score = static_cast<const float*>(scores->buffer)[i];
        if (label >= params.numClassesConfigured ||
            score < params.perClassPreclusterThreshold[label])
            continue;
        const float* box = static_cast<const float*>(boxes->buffer) + 4 * i;
        const float left = x.clip(box[0]), top = y.clip(box[1]);
        const float w = x.clip(box[2]) - left, h = y.clip(box[3]) - top;
        if (!(w > 0 && h > 0)) continue;  // in the border, or not a number
        const float* pose = static_cast<const float*>(poses->buffer) + values * i;
        auto* mask = new float[values];  // gst-nvinfer deletes it
        for (unsigned int k = 0; k + 2 < values; k += 3) {
            mask[k] = (pose[k] - left) / w;
            mask[k + 1] = (pose[k + 1] - top) / h;
            mask[k + 2] = pose[k + 2];
        }
        NvDsInferInstanceMaskInfo object{};
        object.classId = label;
        object.left = left, object.top = top, object.width = w, object.height = h;
        object.detectionConfidence = score;
        object.mask = mask;
        object.mask_width = 3, object.mask_height = values / 3;
        object.mask_size = static_cast<unsigned int>(values * sizeof(float));
        objects.push_back(object);
    }
    return true;
}

}  // namespace yolo_pose

extern "C" bool NvDsInferParseEmbeddedPoses(std::vector<NvDsInferLayerInfo> const& layers,
                                            NvDsInferNetworkInfo const& network,
                                            NvDsInferParseDetectionParams const& params,
                                            std::vector<NvDsInferInstanceMaskInfo>& objects) {
    return yolo_pose::parse(layers, network, params, {FRAME_WIDTH, FRAME_HEIGHT}, objects);
}

static_assert(std::is_same<decltype(&NvDsInferParseEmbeddedPoses),
                           NvDsInferInstanceMaskParseCustomFunc>::value,
              "not what gst-nvinfer calls");
