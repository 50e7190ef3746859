// Poses of a YOLO-Pose model with embedded NMS, as gst-nvinfer takes them. See docs/deploy.md.

#pragma once

#include <vector>

#include "nvdsinfer_custom_impl.h"

namespace yolo_pose {

// What the stream muxer delivers; the parser keeps boxes inside the part of the network input that
// shows it, because gst-nvinfer drops every object that reaches beyond the frame.
struct FrameSize {
    unsigned int width;
    unsigned int height;
};

// Objects of one frame. Each mask holds K rows of x, y, confidence: a point in units of its box,
// (0, 0) the top left and (1, 1) the bottom right corner. gst-nvinfer scales the box to the frame,
// so left + x * width and top + y * height are pixels of the frame. False: not such a model.
bool parse(const std::vector<NvDsInferLayerInfo>& layers, const NvDsInferNetworkInfo& network,
           const NvDsInferParseDetectionParams& params, FrameSize frame,
           std::vector<NvDsInferInstanceMaskInfo>& objects);

}  // namespace yolo_pose
