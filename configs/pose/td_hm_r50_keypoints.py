# Top-down heatmaps with ResNet-50, on the keypoints of COCO: MMPose's own recipe, with the
# overlap logged. The baseline of td_hm_r50_wau_keypoints.py.
_base_ = 'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
custom_hooks = [*_base_.custom_hooks, dict(type='OverlapHook')]
